"""The page's one style sheet: light and dark, colours that colour-blind readers can tell apart."""

CSS = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#171b22;--soft:#59626f;--line:#e1e5ea;--tint:#f0f3f6;--accent:#0b63a5;
--good:#0a7350;--bad:#b3410c;--kept:#3f7fb5;--user:#e8f1fa;--d0:#d55e00;--d1:#e6a312;--d2:#c26d9f;--d3:#7d8794;--d4:#b9c0c9;
--c0:#6b7686;--c1:#0072b2;--c2:#c97b00;--c3:#00815d;--c4:#a8478a;--c5:#c9480a;--c6:#3a94c9;--c7:#857400}
@media(prefers-color-scheme:dark){:root{--page:#101318;--card:#181c23;--ink:#e8ebf0;--soft:#9aa5b3;--line:#2b313b;--tint:#212731;
--accent:#74b9f2;--good:#4ccf9f;--bad:#ff9a66;--kept:#4b8fc9;--user:#1c2f42;--d0:#e8743b;--d1:#e3ab3a;--d2:#cf86b3;--d3:#8d97a5;--d4:#56606d;
--c0:#a9b3c1;--c1:#58aeea;--c2:#f0b03c;--c3:#35c79a;--c4:#e08cc0;--c5:#ff8552;--c6:#8fd0f5;--c7:#e2d34a}}
*{box-sizing:border-box}html{scroll-behavior:smooth;scroll-padding-top:3.6rem;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.55 Inter,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:break-word}
header,main,footer{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding-top:44px;padding-bottom:8px}h1{font-size:2rem;line-height:1.15;letter-spacing:-.02em;margin:.1em 0 .5em}
.over{color:var(--soft);font-size:.82rem;letter-spacing:.04em;margin:0}.lead{font-size:1.22rem;line-height:1.4;max-width:48em;margin:0 0 .3em}
.then{color:var(--soft);max-width:60em;margin:0 0 .2em}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:24px 0 0;padding:0;list-style:none}
.tiles li{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.tiles b{display:block;font-size:1.35rem;line-height:1.3;letter-spacing:-.01em;font-weight:600}.tiles span{color:var(--soft);font-size:.82rem}
nav{position:sticky;top:0;z-index:2;background:var(--page);border-bottom:1px solid var(--line);margin-top:22px}
nav ul{max-width:1120px;margin:0 auto;padding:9px 20px;display:flex;gap:4px 20px;list-style:none;font-size:.88rem;overflow-x:auto;white-space:nowrap}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:22px 24px;margin:20px 0}
h2{font-size:1.22rem;letter-spacing:-.01em;margin:0 0 .2em}h3{font-size:.98rem;margin:1.6em 0 .5em}
.intro,.note{color:var(--soft);max-width:62em;margin:0 0 1em}.note{font-size:.86rem;margin:.9em 0 0}
.absent{color:var(--soft);background:var(--tint);border-radius:8px;padding:9px 13px;margin:8px 0}
.warn{border-left:3px solid var(--bad);background:var(--tint);border-radius:0 8px 8px 0;padding:9px 13px;margin:16px 0 0}
.scroll{overflow-x:auto;margin:0 -4px;padding:0 4px}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:7px 10px 7px 0;border-bottom:1px solid var(--line);vertical-align:top;font-weight:400}
thead th{color:var(--soft);font-size:.82rem;vertical-align:bottom;border-bottom-color:var(--soft)}
tbody th{font-weight:500}tfoot td,tfoot th{font-weight:600;border-bottom:0;border-top:1px solid var(--soft)}
.num{text-align:right;white-space:nowrap;padding-left:10px;padding-right:0}.num+.num{padding-left:18px}
td small,th small{display:block;color:var(--soft);font-size:.8rem;font-weight:400;line-height:1.45}
td b{font-weight:650}.up{color:var(--good)}.down{color:var(--bad)}.same{color:var(--soft)}.lead-cell{color:var(--good)}
.charts{display:grid;gap:20px 26px;margin:14px 0}.c3col{grid-template-columns:repeat(auto-fill,minmax(300px,1fr))}
.c4col{grid-template-columns:repeat(auto-fill,minmax(230px,1fr))}
svg.chart{width:100%;height:auto;display:block;overflow:visible}svg text{font:11px Inter,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft)}
svg text.panel{font-size:12.5px;font-weight:600;fill:var(--ink)}svg text.name{font-size:12px;fill:var(--ink)}svg text.bad{fill:var(--bad)}
.wide text.tick{font-size:11.5px}.grid,.ring{stroke:var(--line);stroke-width:1;fill:none}.axis{stroke:var(--soft);stroke-width:1}.dashed{stroke-dasharray:3 3}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}.c5{color:var(--c5)}.c6{color:var(--c6)}.c7{color:var(--c7)}
.line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.raw{fill:currentColor;opacity:.3}.raw:hover{opacity:1}.mark{fill:currentColor;stroke:var(--card);stroke-width:1.2}
.hollow{fill:var(--card);stroke:currentColor;stroke-width:2}.whisker{stroke:currentColor;stroke-width:5;stroke-linecap:round;opacity:.4}
.bar{fill:currentColor;opacity:.8}.bar:hover,.piece:hover{opacity:1}.piece{opacity:.92}.kept{fill:var(--kept)}
.d0{fill:var(--d0)}.d1{fill:var(--d1)}.d2{fill:var(--d2)}.d3{fill:var(--d3)}.d4{fill:var(--d4)}
svg.key{flex:none}.meter{width:70px;height:8px;display:inline-block;margin-left:8px;vertical-align:0}.meter rect{fill:var(--tint)}.meter rect+rect{fill:var(--kept)}
details{border-top:1px solid var(--line)}details:last-of-type{border-bottom:1px solid var(--line)}
summary{cursor:pointer;padding:9px 2px;font-weight:500}summary small{color:var(--soft);font-weight:400;margin-left:8px;font-size:.85rem}summary:hover{color:var(--accent)}
details>:last-child{margin-bottom:14px}.row{border:1px solid var(--line);border-radius:10px;padding:12px 14px;margin:10px 0}
.facts{display:flex;flex-wrap:wrap;gap:4px 6px;align-items:baseline;font-size:.78rem;color:var(--soft);margin-bottom:8px}.facts code{margin-right:6px}
.chip{background:var(--tint);border-radius:5px;padding:1px 7px}.chip b{font-weight:500;color:var(--ink)}
.bubble{border-radius:10px;padding:8px 12px;margin:6px 0;max-width:860px;background:var(--tint)}.bubble.user{background:var(--user)}
.bubble.system,.bubble.tool{background:none;border:1px dashed var(--line)}.role{font-size:.74rem;color:var(--soft)}
.text,.chip,.facts,pre+p,h1,summary,td code{overflow-wrap:anywhere}.text{white-space:pre-wrap;unicode-bidi:isolate;font-size:.9rem;line-height:1.5}.none,.more{color:var(--soft);font-style:italic}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(280px,1fr));gap:14px;margin-top:8px}
.side{font-size:.82rem;font-weight:600;border-top:3px solid;padding-top:5px}.side.chosen{color:var(--good)}.side.rejected{color:var(--bad)}
.four{display:grid;grid-template-columns:repeat(auto-fit,minmax(215px,1fr));gap:14px}.four h4{margin:8px 0 2px;font-size:.88rem;display:flex;gap:6px;align-items:center}
.rating{margin-left:auto;font-weight:600}.verdict{margin:8px 0 0;font-size:.88rem}
.tag{border:1px solid;border-radius:5px;padding:0 7px;font-size:.78rem;margin-right:4px}.tag.good{color:var(--good)}.tag.bad{color:var(--bad)}
pre,code{font:.85em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{background:var(--tint);border-radius:8px;padding:14px 16px;overflow-x:auto;margin:0;white-space:pre;overflow-wrap:normal}
footer{color:var(--soft);font-size:.82rem;padding-top:6px;padding-bottom:40px}
@media(max-width:860px){section{padding:16px}header{padding-top:24px}}
@media(prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
@media print{nav{position:static}section{break-inside:avoid-page;border:0;padding:0}}
"""
