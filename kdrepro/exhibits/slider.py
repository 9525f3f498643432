"""Digits beside the probabilities of their classes, with a slider for the temperature that needs no kernel."""

from __future__ import annotations

import base64
import io
import itertools
import json

import numpy as np
from matplotlib.image import imsave

from kdrepro.exhibits.digits import Digits, checked_digits, softened
from kdrepro.exhibits.render import Html

LEAST, MOST = 1.0, 30.0
# Below this share a bar of the logarithmic view has no height.
FLOOR = -8.0
_counter = itertools.count(1)


def _picture(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    imsave(buffer, image, format="png", cmap="gray_r", vmin=0, vmax=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


_STYLE = """
#ID{color:inherit;margin:1em 0;max-width:46em}
#ID .bar-row{display:flex;gap:1em;align-items:flex-end;margin:.7em 0}
#ID img{width:72px;height:72px;image-rendering:pixelated;background:#fff;border:1px solid rgba(128,128,128,.6)}
#ID .bars{display:flex;flex:1;gap:4px;height:110px;border-bottom:1px solid currentColor}
#ID .bar{position:relative;flex:1;height:100%}
#ID .bar i{position:absolute;left:0;right:0;bottom:0;background:currentColor;opacity:.55}
#ID .bar.label i{background:#009e73;opacity:1}
#ID .bar b{position:absolute;left:-4px;right:-4px;text-align:center;font:11px sans-serif}
#ID .classes{display:flex;gap:4px;font:12px sans-serif}
#ID .classes span{flex:1;text-align:center}
#ID .bar-side{flex:1}
#ID .controls{display:flex;flex-wrap:wrap;gap:.5em 1em;align-items:center}
#ID input[type=range]{flex:1;min-width:12em;accent-color:#009e73}
#ID output{min-width:4em;font-variant-numeric:tabular-nums}
"""

_SCRIPT = """
(function(){
var root=document.getElementById("ID");if(!root){return;}
var logits=LOGITS,floor=FLOOR;
var slider=root.querySelector("input[type=range]"),logarithm=root.querySelector("input[type=checkbox]");
var shown=root.querySelector("output"),sets=root.querySelectorAll(".bars");
function softened(z,t){
var m=Math.max.apply(null,z),p=z.map(function(v){return Math.exp((v-m)/t);});
var s=p.reduce(function(a,b){return a+b;},0);return p.map(function(v){return v/s;});}
function percent(p){return p>=0.0995?(100*p).toFixed(0)+"%":p>=0.00095?(100*p).toFixed(1)+"%":"";}
function draw(){
var t=parseFloat(slider.value);shown.textContent="T = "+t.toFixed(1);
slider.setAttribute("aria-valuetext","temperature "+t.toFixed(1));
logits.forEach(function(z,n){
var p=softened(z,t),order=p.map(function(v,k){return k;}).sort(function(a,b){return p[b]-p[a];});
Array.prototype.forEach.call(sets[n].children,function(bar,k){
var h=logarithm.checked?Math.max(0,1-Math.log10(Math.max(p[k],1e-300))/floor):p[k];
bar.firstChild.style.height=(86*h)+"%";bar.lastChild.style.bottom=(86*h)+"%";
bar.lastChild.textContent=percent(p[k]);bar.title="class "+k+": "+p[k].toPrecision(3);});
sets[n].setAttribute("aria-label","label "+sets[n].dataset.label+"; probabilities: "+order.slice(0,3).map(function(k){
return "class "+k+" "+(100*p[k]).toPrecision(2)+" percent";}).join(", "));});}
slider.addEventListener("input",draw);logarithm.addEventListener("change",draw);draw();
})();
"""


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}" if share >= 0.00095 else ""


def _row(digits: Digits, place: int, start: float) -> str:
    label, shares = digits.labels[place], softened(digits.logits[place], start)
    best = np.argsort(-shares)[:3]
    spoken = ", ".join(f"class {each} {100 * shares[each]:.2g} percent" for each in best)
    bars = "".join(
        f'<span class="bar{" label" if each == label else ""}" title="class {each}: {share:.3g}">'
        f'<i style="height:{86 * share:.2f}%"></i><b style="bottom:{86 * share:.2f}%">{_percent(share)}</b></span>'
        for each, share in enumerate(shares)
    )
    # By its weight and a line too: colour alone does not tell everybody.
    names = "".join(
        f"<span>{f'<b><u>{each}</u></b>' if each == label else each}</span>" for each in range(len(shares))
    )
    return (
        f'<div class="bar-row"><img src="{_picture(digits.images[place])}" alt="a digit labelled {label}">'
        f'<div class="bar-side"><div class="bars" role="img" aria-label="label {label}; probabilities: {spoken}" '
        f'data-label="{label}">{bars}</div>'
        f'<div class="classes" aria-hidden="true">{names}</div></div></div>'
    )


def temperature_slider(images: object, logits: object, labels: object, *, start: float = 1.0) -> Html:
    """HTML in which a slider moves the temperature from 1 to 30 and the probabilities of the classes follow.

    The arguments are those of `plots.dark_knowledge`. Nothing is fetched and no kernel is needed: pictures, style
    and script are in the text; without scripts the bars stay as they are at `start`. Each call makes its own ids, so
    several fit on one page.

    Raises ValueError or TypeError that names the argument whose shape, value or kind does not fit.
    """
    digits = checked_digits(images, logits, labels, temperature=start)
    if not LEAST <= start <= MOST:
        raise ValueError(f"start: got {start!r}, expected a temperature from {LEAST:g} to {MOST:g}")
    name = f"kdrepro-slider-{next(_counter)}"
    rounded = json.dumps(
        [[round(float(each), 3) for each in some] for some in digits.logits], separators=(",", ":")
    )
    script = _SCRIPT.replace("ID", name).replace("LOGITS", rounded).replace("FLOOR", f"{FLOOR:g}")
    rows = "".join(_row(digits, place, start) for place in range(len(digits.labels)))
    return Html(
        f"<style>{_STYLE.replace('ID', name)}</style>"
        f'<div id="{name}" role="group" aria-label="class probabilities by temperature">'
        f'<div class="controls"><label for="{name}-temperature">Temperature</label>'
        f'<input id="{name}-temperature" type="range" min="{LEAST:g}" max="{MOST:g}" step="0.1" value="{start:g}">'
        f'<output for="{name}-temperature" aria-live="polite">T = {start:.1f}</output>'
        f'<span><input id="{name}-logarithm" type="checkbox"> '
        f'<label for="{name}-logarithm">logarithmic height</label></span></div>{rows}</div>'
        f"<script>{script}</script>"
    )
