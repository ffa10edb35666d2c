
"use strict";
// Shows the figures behind the shapes in a tooltip: on hover, on tap, and with the arrow keys. All content is set as text.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const tip = document.getElementById("tip");
  const box = document.getElementById("lanes");
  if (!box) return;
  const { seconds, bins, spans, charts, lanes } = figures;
  const rows = [...box.querySelectorAll(".plot")];
  const plots = [...document.querySelectorAll(".plot")];
  tip.hidden = false;

  const fixed = (value, digits) => Number(value.toPrecision(digits)).toLocaleString("en-US", { maximumFractionDigits: 6 });
  const duration = (s) =>
    s < 0.001 ? `${fixed(s * 1e6, 3)} µs` : s < 1 ? `${fixed(s * 1e3, 3)} ms` : s < 60 ? `${fixed(s, 3)} s`
      : s < 3600 ? `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  const size = (b) => b >= 2 ** 30 ? `${fixed(b / 2 ** 30, 3)} GB` : b >= 2 ** 20 ? `${fixed(b / 2 ** 20, 3)} MB` : `${fixed(b / 1024, 3)} KB`;
  const units = { rate: (v) => `${fixed(v, 3)}/s`, percent: (v) => `${fixed(v, 3)} %`, bytes: size, seconds: duration };

  // Unix time of a position on the axis; pauses between executions are cut out.
  const clock = (position) => {
    let rest = position;
    for (const [start, stop] of spans) {
      if (rest <= stop - start) return start + rest;
      rest -= stop - start;
    }
    return spans[spans.length - 1][1];
  };
  const moment = (position) => `${duration(position)} after the start, ${new Date(clock(position) * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;

  const killsIn = (lane, from, to) => lane.kills.filter(([bin]) => bin >= from && bin <= to).map(([, reason, n]) => `${lanes.reasons[reason]}${n > 1 ? ` (${n})` : ""}`);

  const attemptLines = (lane, segment) => {
    const [begins, length, miniBatch, attempt, outcome, pid, piece] = segment;
    const what = piece ? `mini-batch ${miniBatch}, ${piece} items from ${attempt}` : `mini-batch ${miniBatch}, attempt ${attempt}`;
    return [`${lane.name}${pid ? `, process ${pid}` : ""}`, `${what}: ${lanes.outcomes[outcome]}`, `duration ${duration(length)}`, moment(begins)];
  };
  const nearest = (tries, at, slack) => {
    let best = null, least = slack;
    for (const segment of tries) {
      const distance = at < segment[0] ? segment[0] - at : Math.max(at - segment[0] - segment[1], 0);
      if (distance < least || (distance === least && best && segment[1] < best[1])) [best, least] = [segment, distance];
    }
    return best;
  };
  const laneLines = (number, position) => {
    const lane = lanes.lanes[number], bin = Math.min(Math.floor((position / seconds) * bins), bins - 1);
    const segment = lane.tries && nearest(lane.tries, position, seconds / 150);
    if (segment) return [...attemptLines(lane, segment), ...killsIn(lane, bin - 1, bin + 1)];
    if (lane.tries) return [lane.name, "no mini-batch", moment(position), ...killsIn(lane, bin - 1, bin + 1)];
    const failed = lane.bad[bin] ? `, ${lane.bad[bin].toLocaleString("en-US")} failed` : "";
    return [lane.name, `busy ${lane.busy[bin]} %; ${lane.good[bin].toLocaleString("en-US")} attempts succeeded${failed}`, moment(position), ...killsIn(lane, bin, bin)];
  };
  const chartLines = (key, position) => {
    const bin = Math.min(Math.floor((position / seconds) * bins), bins - 1);
    const lines = charts[key].filter(([, , values]) => values[bin] !== null).map(([name, unit, values]) => `${name}: ${units[unit](values[bin])}`);
    return [...(lines.length ? lines : ["no measurement"]), moment(position)];
  };

  const cursors = [];
  const move = (position) => {
    if (!cursors.length) {
      for (const plot of plots) {
        const line = document.createElement("div");
        line.className = "cursor";
        plot.append(line);
        cursors.push(line);
      }
    }
    for (const line of cursors) {
      line.hidden = false;
      line.style.left = `${(100 * position) / seconds}%`;
    }
  };
  const hide = () => {
    tip.classList.remove("shown");
    for (const line of cursors) line.hidden = true;
    for (const row of rows) row.parentElement.classList.remove("chosen");
  };
  const show = (plot, position) => {
    const number = plot.dataset.lane;
    tip.textContent = (number === undefined ? chartLines(plot.dataset.chart, position) : laneLines(Number(number), position)).join("\n");
    for (const row of rows) row.parentElement.classList.toggle("chosen", row === plot);
    move(position);
    const around = plot.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const x = around.left + (position / seconds) * around.width;
    const left = x + 14 + own.width < window.innerWidth ? x + 14 : Math.max(x - 14 - own.width, 4);
    const top = around.bottom + 8 + own.height < window.innerHeight ? around.bottom + 8 : around.top - own.height - 8;
    tip.style.left = `${Math.max(Math.min(left, window.innerWidth - own.width - 4), 4)}px`;
    tip.style.top = `${Math.max(top, 4)}px`;
    tip.classList.add("shown");
  };

  const point = (event) => {
    const plot = event.target.closest && event.target.closest(".plot");
    if (!plot) return event.type === "pointermove" ? hide() : undefined;
    const around = plot.getBoundingClientRect();
    show(plot, Math.min(Math.max((event.clientX - around.left) / around.width, 0), 1) * seconds);
  };
  document.addEventListener("pointermove", point);
  document.addEventListener("pointerdown", point);
  document.addEventListener("scroll", hide, { passive: true });
  document.addEventListener("focusout", hide);

  // With keys: in a chart from bin to bin; in the lanes from lane to lane, and from attempt to attempt where they are drawn.
  const keys = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 };
  const step = (event, position, tries) => {
    if (event.key === "Home") return 0;
    if (event.key === "End") return seconds;
    if (!tries) return Math.min(Math.max((Math.floor((position / seconds) * bins) + keys[event.key] + 0.5) * (seconds / bins), 0), seconds);
    const middles = tries.map(([begins, length]) => begins + length / 2);
    const past = middles.filter((at) => at < position - 1e-9).length, here = past < middles.length && Math.abs(middles[past] - position) < 1e-6;
    const target = keys[event.key] > 0 ? past + keys[event.key] - (here ? 0 : 1) : past + keys[event.key];
    return middles.length ? middles[Math.min(Math.max(target, 0), middles.length - 1)] : position;
  };
  const positions = new Map();
  let chosen = 0;
  const onKey = (event) => {
    if (event.key === "Escape") return hide();
    const inLanes = event.currentTarget === box;
    const isHandled = event.key in keys || event.key === "Home" || event.key === "End" || (inLanes && /^Arrow(Up|Down)$/.test(event.key));
    if (!isHandled || event.ctrlKey || event.metaKey || event.altKey) return undefined;
    event.preventDefault();
    let position = positions.get(event.currentTarget) || 0;
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      chosen = Math.min(Math.max(chosen + (event.key === "ArrowDown" ? 1 : -1), 0), rows.length - 1);
    } else {
      position = step(event, position, inLanes ? lanes.lanes[chosen].tries : undefined);
    }
    positions.set(event.currentTarget, position);
    return show(inLanes ? rows[chosen] : event.currentTarget, position);
  };
  box.addEventListener("keydown", onKey);
  for (const plot of document.querySelectorAll(".plot[data-chart]")) plot.addEventListener("keydown", onKey);
})();
