#!/usr/bin/env bash
# One would guess: a CircuitsVis view in a notebook is HTML that was made when the function ran. Showing it asks nobody,
#   and shows the same whenever it is shown; `str(view)` is what a page written to a file needs.
# Seen: each time a view is shown (`_repr_html_`), http://google.com is asked first, waiting a second for an answer. If
#   one comes, the page loads its JavaScript from unpkg.com, beside the prompt's tokens and attention; if none, 1.5 MB of
#   JavaScript stand in the page itself. `str(view)` is always the page that needs unpkg.com, also offline.
# Means: a notebook on a machine that may not be known elsewhere makes a request per view, even when it is executed
#   without anybody looking; files written from `str(view)` stay empty offline. `view.local_src` asks nobody and needs
#   nothing.
# With: circuitsvis 1.43.3 (utils/render.py, RenderedHTML), on PyPI. No request leaves here: urlopen is replaced.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet circuitsvis==1.43.3
cat > "$folder/try.py" <<'PY'
from urllib import request

import torch
from circuitsvis.attention import attention_heads

asked = []


def answer(url, timeout):
    asked.append(url)


def refuse(url, timeout):
    asked.append(url)
    raise OSError("no network")


view = attention_heads(torch.rand(1, 3, 3), ["a", "b", "c"])
for name, network in (("network", answer), ("no network", refuse)):
    request.urlopen = network
    for what, show in (("shown", view._repr_html_), ("as text", view.__str__), ("local_src", lambda: view.local_src)):
        asked.clear()
        html = show()
        print(f"{name}, {what}: asked {asked}, needs unpkg.com: {'https://unpkg.com' in html}, over 1 MB: {len(html) > 1e6}")
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
network, shown: asked ['http://google.com'], needs unpkg.com: True, over 1 MB: False
network, as text: asked [], needs unpkg.com: True, over 1 MB: False
network, local_src: asked [], needs unpkg.com: False, over 1 MB: True
no network, shown: asked ['http://google.com'], needs unpkg.com: False, over 1 MB: True
no network, as text: asked [], needs unpkg.com: True, over 1 MB: False
no network, local_src: asked [], needs unpkg.com: False, over 1 MB: True
SEEN
