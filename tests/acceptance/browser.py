"""A headless Chromium for tests that look at pages; it opens nothing but what the test names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """Return the path of Chromium, or None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """Chromium, driven on a thread of its own: Playwright keeps an event loop there, which others would stumble over."""

    def __init__(self, program: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="browser")
        self._stack = ExitStack()
        self._thread.submit(self._start, program).result()

    def look(self, do: Callable[..., Any], **options: Any) -> Any:
        """Call *do* with a new page, on the browser's thread, and return what it returns.

        Args:
            do: What is done there; gets a ``playwright.sync_api.Page``.
            options: Of the page's context: viewport, color_scheme, offline, …
        """
        return self._thread.submit(self._look, do, options).result()

    def close(self) -> None:
        """End it."""
        self._thread.submit(self._stack.close).result()
        self._thread.shutdown()

    def _start(self, program: str) -> None:
        from playwright.sync_api import sync_playwright

        playwright = self._stack.enter_context(sync_playwright())
        self._chromium = playwright.chromium.launch(executable_path=program, chromium_sandbox=False, args=[*ARGUMENTS])
        self._stack.callback(self._chromium.close)

    def _look(self, do: Callable[..., Any], options: dict[str, Any]) -> Any:
        context = self._chromium.new_context(**options)
        try:
            page = context.new_page()
            page.set_default_timeout(180_000)
            return do(page)
        finally:
            context.close()
