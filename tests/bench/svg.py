"""Bars as SVG, by hand: names on the left, a bar with its value on the right."""
from html import escape

ROW, NAME, WIDTH = 24, 380, 420


def bars(title, rows):
    """@rows: (name, value, text, ours)."""
    most = max((v for _, v, _, _ in rows), default=1) or 1
    height = ROW * (len(rows) + 2)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{NAME + WIDTH + 140}" height="{height}" '
           'font-family="sans-serif" font-size="13">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="8" y="{ROW - 6}" font-weight="bold">{escape(title)}</text>']
    for i, (name, value, text, ours) in enumerate(rows):
        y = ROW * (i + 1)
        w = max(1, round(WIDTH * value / most))
        out.append(f'<text x="{NAME - 8}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        out.append(f'<rect x="{NAME}" y="{y + 4}" width="{w}" height="{ROW - 8}" fill="{"#2a6f97" if ours else "#b0b7bf"}"/>')
        out.append(f'<text x="{NAME + w + 6}" y="{y + 16}">{escape(text)}</text>')
    out.append("</svg>\n")
    return "\n".join(out)
