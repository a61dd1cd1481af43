from monosem.viewer.index import IndexConfig, build_index
from monosem.viewer.schema import open_index


def test_smoke(make_run, console, shown):
    run = make_run("topk")
    path = build_index(run, IndexConfig(tokens=2000), console=console)
    c = open_index(path)
    for t in (
        "meta",
        "vocabulary",
        "documents",
        "blocks",
        "latents",
        "examples",
        "fires_on",
        "logit_effects",
        "neighbours",
    ):
        rows = c.execute(f"SELECT * FROM {t}").fetchall()
        print(t, len(rows), [tuple(r) for r in rows[:2]])
    print(shown())
