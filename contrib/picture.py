#!/usr/bin/env python3
"""Makes contrib/picture.svg: what ./contrib/quickstart.sh shows on a terminal of 116 columns, in a run of its own.

Directories that are other ones with each run or machine are shown as $DIR and /usr/bin; the JSON is left out.
Needs the release build, script(1) of util-linux, and what quickstart.sh needs.
"""

import html
import pathlib
import re
import subprocess
import tempfile

COLUMNS = 116
# Of a character of 13 pixels, in a font that every browser has something for.
WIDTH, HEIGHT, MARGIN = 7.83, 18, 16
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
COLOURS = {"31": "#ff7b72", "33": "#e3b341"}
# The commands whose output is shown, by how they begin.
SHOWN = ("run-due --instance quickstart --force\n", "list\n", "snapshots\n", "verify", "restore")
TOP = pathlib.Path(__file__).resolve().parent.parent


def recorded():
    """What quickstart.sh prints on a terminal."""
    with tempfile.NamedTemporaryFile() as file:
        command = f"stty cols {COLUMNS} rows 50 </dev/tty; TERM=xterm ./contrib/quickstart.sh --no-build"
        subprocess.run(["script", "--quiet", "--return", "--command", command, file.name],
                       cwd=TOP, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        text = pathlib.Path(file.name).read_text(encoding="utf-8").replace("\r\n", "\n")
    # The lines that script(1) itself adds.
    text = "\n".join(line for line in text.split("\n") if not line.startswith("Script "))
    text = re.sub(r"/tmp/hypeman-snap\.\w+(\S*)", lambda it: shorter(it, "$DIR" + it[1]), text)
    return re.sub(r"/\S*/(qemu-system-\S*)", lambda it: shorter(it, "/usr/bin/" + it[1]), text)


def shorter(match, text):
    """Another text as wide as what it stands for."""
    return text.ljust(len(match[0]))


def narrowed(lines):
    """The table of checks without the room that the longer words took."""
    table = [line for line in lines if re.match(r"(STATUS|ok|warning|broken) ", line)]
    width = max(map(len, table))
    blank = [all(line.ljust(width)[at] == " " for line in table) for at in range(width)]
    keep = [at for at in range(width) if not (at >= 2 and all(blank[at - 2:at + 1]))]
    return ["".join(line.ljust(width)[at] for at in keep).rstrip() if line in table else line for line in lines]


def selected(text):
    """The commands that are shown, each once, with what they print."""
    wanted = list(SHOWN)
    parts = []
    for part in re.split(r"(?m)^\$ hypeman-snap ", text)[1:]:
        for begin in wanted:
            if part.startswith(begin):
                wanted.remove(begin)
                # What quickstart.sh says in between.
                parts.append("$ hypeman-snap " + re.split(r"\n==> ", part)[0].strip("\n"))
                break
    assert not wanted, f"quickstart.sh does not show {wanted}"
    return "\n\n".join(parts).split("\n")


def cells(line):
    """The characters of a line, each with its weight and its colour."""
    bold, colour, found = False, None, []
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        if not piece.startswith("\x1b"):
            found += [(character, bold, colour) for character in piece]
            continue
        for code in piece[2:-1].split(";"):
            bold = code == "1" or (bold and code not in ("0", "22", ""))
            colour = COLOURS.get(code, None if code in ("0", "39", "") else colour)
    return found


def rows(lines):
    """The lines as a terminal breaks them."""
    for line in lines:
        all_of_it = cells(line)
        for start in range(0, max(len(all_of_it), 1), COLUMNS):
            yield all_of_it[start:start + COLUMNS]


def spans(row):
    """A row as SVG: neighbours of one kind together."""
    out, start = [], 0
    while start < len(row):
        end = start
        while end < len(row) and row[end][1:] == row[start][1:]:
            end += 1
        text = html.escape("".join(character for character, _, _ in row[start:end]))
        _, bold, colour = row[start]
        style = (' font-weight="bold"' if bold else "") + (f' fill="{colour}"' if colour else "")
        out.append(f"<tspan{style}>{text}</tspan>" if style else text)
        start = end
    return "".join(out)


def svg(lines):
    """The picture."""
    all_rows = list(rows(lines))
    width = round(COLUMNS * WIDTH + 2 * MARGIN)
    height = round(len(all_rows) * HEIGHT + 2 * MARGIN)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        "<title>hypeman-snap takes snapshots of a running VM, verifies them, and brings the VM back</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>',
        f'<g font-family="{FONT}" font-size="13" fill="#c9d1d9" xml:space="preserve">',
    ]
    for number, row in enumerate(all_rows):
        if row:
            y = round(MARGIN + number * HEIGHT + 13)
            length = len(row) * WIDTH
            out.append(f'<text x="{MARGIN}" y="{y}" textLength="{length:.1f}">{spans(row)}</text>')
    return "\n".join([*out, "</g>", "</svg>", ""])


(TOP / "contrib/picture.svg").write_text(svg(narrowed(selected(recorded()))), encoding="utf-8")
