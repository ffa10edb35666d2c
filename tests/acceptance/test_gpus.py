"""A step on a machine whose nvidia-smi says that it has GPUs."""


def test_two_nodes_work_on_a_gpu_each(workshop, nvidia_smi):
    """One process per node without a word about it, and whatever replaces one that crashed, spares too, has its GPU."""
    nvidia_smi("two")
    made = workshop.step(
        "tells_gpu.py",
        *("--crash", "3,5,11", "--log", str(workshop.log)),
        *("--processes", "2"),  # one per node: else the work may be done before the second is there
        node_count=2,
        process_count_per_node=None,
        mini_batch_size=1,
    )
    assert made().items_succeeded == 100
    begun = [line.split() for line in workshop.log.read_text().splitlines()]
    by_node = [{gpu for _, _, name, gpu, _ in begun if name.startswith(node)} for node in ("node-0", "node-1")]
    assert by_node in ([{"0"}, {"1"}], [{"1"}, {"0"}])
    assert {name.split(".")[1] for _, _, name, _, _ in begun} <= {"0", "spare"}
