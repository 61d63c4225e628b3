#!/usr/bin/python3
"""
The parts of the manual and of the shells' completions that are lists: made from the tables the programs
themselves use, so that they cannot differ.

    reference.py stages < STAGES.JSON     scdoc: every stage, step and codec (from `sluicectl --json stages`)
    reference.py options FILE.C...        scdoc: the options in the tables of these sources
    reference.py commands COMMANDS.DEF    scdoc: every command
    reference.py bash|zsh|fish COMMANDS.DEF   completion
"""

import json
import re
import sys

STRING = r'"(?:[^"\\]|\\.)*"'


def commands(path):
    """The COMMAND() lines of commands.def: name, arguments, help, more."""
    text = re.sub(r"/\*.*?\*/", "", open(path, encoding="utf-8").read(), flags=re.S)
    found = []
    for call in re.findall(r"COMMAND\(((?:%s|[^()\"])*)\)" % STRING, text, flags=re.S):
        # neighbouring literals are one
        parts = [p.strip() for p in re.split(r",(?=(?:[^\"\\]|\\.|%s)*$)" % STRING, call, flags=re.S)]
        value = lambda p: "".join(json.loads(s) for s in re.findall(STRING, p, flags=re.S))  # noqa: E731
        found.append({"name": value(parts[1]), "args": value(parts[2]), "change": parts[3] == "CHANGE",
                      "help": value(parts[7]), "more": value(parts[8])})
    if not found:
        sys.exit(f"{path}: no commands in it")
    return found


def escape(text):
    """Text that scdoc is to take as it is."""
    return re.sub(r"([\\_*#`~<>.\[\]-])", r"\\\1", text) if text else ""


def sentence(text):
    text = text or ""
    return escape(text[:1].upper() + text[1:] + ("" if text[-1:] in "?.!" else "."))


def literal(text):
    return ["```", *text.rstrip("\n").split("\n"), "```", ""]


# ---- manual ----


def option_lines(o):
    limits = []
    if o.get("required"):
        limits.append("required")
    elif o.get("default") is not None:
        limits.append(f"default {o['default']}")
    choices = o.get("choices")
    kind = " | ".join(choices) if choices else o["type"]
    yield f"*{escape(o['name'])}* ({escape(kind)}{', ' if limits else ''}{escape(', '.join(limits))})"
    yield f"\t{sentence(o['help'])}"
    yield ""


def stages(types):
    titles = {"producer": "PRODUCERS", "step": "STEPS", "consumer": "CONSUMERS", "codec": "CODECS"}
    for kind, title in titles.items():
        yield f"# {title}"
        yield ""
        one = {t["name"]: t for t in types if t["kind"] == kind}
        for name in sorted(one):
            t = one[name]
            yield f"## {name}"
            yield ""
            yield sentence(t["help"])
            yield ""
            for o in t["options"]:
                yield from option_lines(o)
            if t.get("bare"):
                yield escape(f"In short `- {name}: VALUE` for `- {name}: {{{t['bare']}: VALUE}}`.")
                yield ""
            if t.get("example"):
                yield "Example:"
                yield ""
                yield from literal(t["example"])


KINDS = {"INT": "number", "FLOAT": "number", "SIZE": "size", "DURATION": "duration", "BOOL": "true or false",
         "STRING": "string", "STRINGS": "string or list", "ENUM": "word", "NODE": "see below", "SUB": "map"}


def options_of(source):
    """The tables of struct option in a C source: (table's name, its entries)."""
    text = open(source, encoding="utf-8").read()
    for table, body in re.findall(r"(?:struct option (\w+)_options|common_keys)\[\] = \{(.*?)\n\};", text, flags=re.S):
        entries = []
        for name, kind, rest in re.findall(r'\{"(\w+)", OPTION_(\w+),((?:%s|[^"{}])*)\}' % STRING, body, flags=re.S):
            told = re.search(r"\.help\s*=\s*((?:%s\s*)+)" % STRING, rest)
            default = re.search(r"\.def\s*=\s*(%s)" % STRING, rest)
            entries.append({"name": name, "type": KINDS[kind], "default": default and json.loads(default[1]),
                            "help": told and "".join(json.loads(t) for t in re.findall(STRING, told[1]))})
        if entries:
            yield table, entries


def option_tables(sources):
    for source in sources:
        for table, entries in options_of(source):
            if table:
                yield f"## {'dead_letters' if table == 'dead' else table}"
                yield ""
            for o in entries:
                yield from option_lines(o)


def command_list(path):
    for c in commands(path):
        args = " " + escape(c["args"]) if c["args"] else ""
        yield f"*{escape(c['name'])}*{args}"
        yield f"\t{sentence(c['help'])}"
        if c["change"]:
            yield "\tOnly root and the user the daemon runs as may do this."
        yield ""
        if c["more"]:
            yield from literal(c["more"])


# ---- completion ----


def words(c):
    """What may follow a command, besides its options: stage, edge, file or nothing."""
    if "STAGE" in c["args"]:
        return "stage"
    if "EDGE" in c["args"]:
        return "edge"
    return "file" if "FILE" in c["args"] else ""


def options(c):
    return sorted(set(re.findall(r"--?[a-z][a-z-]*", c["args"] + " " + c["more"])))


def first_words(cs):
    return sorted({c["name"].split()[0] for c in cs})


def second_words(cs, first):
    return [c["name"].split()[1] for c in cs if c["name"].split()[0] == first and " " in c["name"]]


def bash(path):
    cs = commands(path)
    yield "# bash completion for sluicectl; made from its table of commands"
    yield "_sluicectl_names() {"
    yield "\tsluicectl --json status 2>/dev/null | tr '{' '\\n' | sed -n 's/^\"name\":\"\\([^\"]*\\)\".*/\\1/p'"
    yield "}"
    yield "_sluicectl() {"
    yield "\tlocal cur=${COMP_WORDS[COMP_CWORD]} command= i"
    yield "\tfor ((i = 1; i < COMP_CWORD; i++)); do"
    yield "\t\tcase ${COMP_WORDS[i]} in"
    yield "\t\t-s | --socket | -c | --config) i=$((i + 1)) ;;"
    yield "\t\t-*) ;;"
    yield "\t\t*) command=${COMP_WORDS[i]}; break ;;"
    yield "\t\tesac"
    yield "\tdone"
    yield "\tcase $command in"
    everything = " ".join([*first_words(cs), "--socket", "--config", "--json", "--version", "--help"])
    yield f"\t\"\") COMPREPLY=($(compgen -W '{everything}' -- \"$cur\")) ;;"
    for first in first_words(cs):
        same = [c for c in cs if c["name"].split()[0] == first]
        plain = sorted({w for c in same for w in options(c)} | set(second_words(cs, first)))
        kinds = {words(c) for c in same}
        if first == "help":
            plain += first_words(cs)
        text = " ".join(plain) + (" $(_sluicectl_names)" if kinds & {"stage", "edge"} else "")
        files = " -f" if "file" in kinds else ""
        quote = '"' if "$" in text else "'"
        yield f"\t{first}) COMPREPLY=($(compgen{files} -W {quote}{text.strip()}{quote} -- \"$cur\")) ;;"
    yield "\tesac"
    yield "}"
    yield "complete -F _sluicectl sluicectl"


def zsh(path):
    cs = commands(path)
    quote = lambda s: s.replace("'", "'\\''").replace(":", "\\:")  # noqa: E731
    yield "#compdef sluicectl"
    yield "# zsh completion for sluicectl; made from its table of commands"
    yield "_sluicectl_names() {"
    yield "\tlocal -a names"
    yield "\tnames=(${(f)\"$(sluicectl --json status 2>/dev/null | tr '{' '\\n' |"
    yield "\t\tsed -n 's/^\"name\":\"\\([^\"]*\\)\".*/\\1/p')\"})"
    yield "\t_describe 'stage or edge' names"
    yield "}"
    yield "local -a commands"
    yield "commands=("
    seen = set()
    for c in cs:
        first = c["name"].split()[0]
        if first not in seen:
            yield f"\t'{first}:{quote(c['help'])}'"
        seen.add(first)
    yield ")"
    yield "_arguments -C '(-s --socket)'{-s,--socket}'[control socket]:socket:_files' \\"
    yield "\t'(-c --config)'{-c,--config}'[configuration]:file:_files' '--json[JSON]' '--version[version]' \\"
    yield "\t'(-h --help)'{-h,--help}'[help]' '1:command:{_describe command commands}' '*::argument:->rest'"
    yield "[[ $state == rest ]] || return"
    yield "case $words[1] in"
    for first in first_words(cs):
        same = [c for c in cs if c["name"].split()[0] == first]
        plain = " ".join(sorted({w for c in same for w in options(c)} | set(second_words(cs, first))))
        kinds = {words(c) for c in same}
        what = [f"compadd -- {plain}"] if plain else []
        what += ["_sluicectl_names"] if kinds & {"stage", "edge"} else []
        what += ["_files"] if "file" in kinds else []
        what += ["_describe command commands"] if first == "help" else []
        if what:
            yield f"{first}) {'; '.join(what)} ;;"
    yield "esac"


def fish(path):
    cs = commands(path)
    quote = lambda s: s.replace("\\", "\\\\").replace("'", "\\'")  # noqa: E731
    yield "# fish completion for sluicectl; made from its table of commands"
    yield "function __sluicectl_names"
    yield "\tsluicectl --json status 2>/dev/null | tr '{' '\\n' | sed -n 's/^\"name\":\"\\([^\"]*\\)\".*/\\1/p'"
    yield "end"
    yield "complete -c sluicectl -f"
    yield "complete -c sluicectl -s s -l socket -r -F -d 'control socket'"
    yield "complete -c sluicectl -s c -l config -r -F -d 'configuration'"
    yield "complete -c sluicectl -l json -d 'JSON'"
    seen = set()
    for c in cs:
        first, *rest = c["name"].split()
        if first not in seen:
            yield f"complete -c sluicectl -n __fish_use_subcommand -a {first} -d '{quote(c['help'])}'"
        seen.add(first)
        under = f"'__fish_seen_subcommand_from {first}'"
        for w in rest:
            yield f"complete -c sluicectl -n {under} -a {w} -d '{quote(c['help'])}'"
        for o in options(c):
            flag = f"-l {o[2:]}" if o.startswith("--") else f"-s {o[1:]}"
            yield f"complete -c sluicectl -n {under} {flag}"
        if words(c) in ("stage", "edge"):
            yield f"complete -c sluicectl -n {under} -a '(__sluicectl_names)'"
        elif words(c) == "file":
            yield f"complete -c sluicectl -n {under} -F"


def main():
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what == "stages":
        lines = stages(json.load(sys.stdin)["types"])
    elif what == "options" and len(sys.argv) > 2:
        lines = option_tables(sys.argv[2:])
    elif what in ("commands", "bash", "zsh", "fish") and len(sys.argv) == 3:
        lines = {"commands": command_list, "bash": bash, "zsh": zsh, "fish": fish}[what](sys.argv[2])
    else:
        sys.exit(__doc__)
    print("\n".join(lines))


main()
