"""A user who never ran it: the places for state and dead letters are made, however deep they lie."""


def test_deep_places_are_made(daemon):
    d = daemon("""
state: {path: @/a/b/state}
dead_letters: {path: @/c/d/dead}
producers:
  in: {type: file, path: @/in.jsonl, codec: json}
transformers:
  counted:
    steps:
      - aggregate: {by: [x], compute: {n: count()}}
consumers:
  out: {type: file, path: @/out.jsonl, codec: json}
""".replace("@", "."), start=False)
    (d.dir / "in.jsonl").write_text('{"x": 1}\nno json\n{"x": 1}\n')
    d.start()
    d.wait_for(lambda: (d.dir / "out.jsonl").exists() and '"n":2' in (d.dir / "out.jsonl").read_text())
    d.wait_for(lambda: "no json" in (d.dir / "c/d/dead/dead.jsonl").read_text())
    assert (d.dir / "a/b/state").is_dir()
