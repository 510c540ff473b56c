/** Style of the report: plain system fonts, light and dark by the reader's setting. */
export const reportStyle = `
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1a1d23;--soft:#667085;--rule:#e4e7ec;--good:#067647;--bad:#b42318;
--s0:#2563eb;--s1:#e8590c;--s2:#0f9d6e;--s3:#9333ea;--s4:#c2255c;--s5:#0891b2;--s6:#a16207;--s7:#64748b}
@media(prefers-color-scheme:dark){:root{--bg:#101318;--card:#181c23;--ink:#e6e9ef;--soft:#98a2b3;--rule:#2a303a;--good:#47cd89;--bad:#f97066;
--s0:#6ea8fe;--s1:#ff9e64;--s2:#4fd6a0;--s3:#c29bff;--s4:#ff7eb6;--s5:#5fd7e8;--s6:#e5c07b;--s7:#a3afc2}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1480px;margin:0 auto;padding:28px 24px 60px}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:6px 14px;margin-bottom:4px}
h1{font-size:24px;margin:0;letter-spacing:-.01em}
h2{font-size:17px;margin:34px 0 12px}
.status{font-size:13px;font-weight:600;padding:2px 10px;border-radius:99px;border:1px solid currentColor}
.status.completed{color:var(--good)}.status.failed{color:var(--bad)}.status.stopped{color:var(--s6)}.status.running{color:var(--s0)}
.sub{color:var(--soft);margin:0 0 20px}
.error{border-left:3px solid var(--bad);background:var(--card);padding:10px 14px;white-space:pre-wrap}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin-bottom:14px}
.tile,.chart,.panel{background:var(--card);border:1px solid var(--rule);border-radius:10px}
.tile{padding:12px 14px}.tile span{color:var(--soft);font-size:13px}.tile b{display:block;font-size:23px;line-height:1.25;font-weight:650;font-variant-numeric:tabular-nums}
.tile em{font-style:normal;font-size:13px;color:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:14px}
.chart{margin:0;padding:12px 14px 10px;position:relative}
figcaption{display:flex;justify-content:space-between;font-weight:600;font-size:14px}
figcaption b{font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:auto;margin-top:6px;overflow:visible}
.grid{stroke:var(--rule);stroke-width:1}
.tick{fill:var(--soft);font-size:11px;font-variant-numeric:tabular-nums}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}.line.faint{opacity:.28;stroke-width:1.2}.line.dot{stroke-width:7}
.area{stroke:none}
.cursor{stroke:var(--soft);stroke-dasharray:3 3;visibility:hidden}
${Array.from({ length: 8 }, (_, i) => `.line.s${i}{stroke:var(--s${i})}.area.s${i}{fill:var(--s${i})}i.s${i}{background:var(--s${i})}`).join('')}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:12.5px;color:var(--soft)}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
.note{margin:4px 0 0;color:var(--soft);font-size:12.5px}
.tip{position:absolute;pointer-events:none;background:var(--ink);color:var(--bg);font-size:12.5px;padding:5px 9px;border-radius:6px;white-space:pre;display:none;z-index:2;font-variant-numeric:tabular-nums}
.panel{overflow:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th,td{text-align:left;vertical-align:top;padding:8px 12px;border-bottom:1px solid var(--rule)}
tr:last-child td{border-bottom:0}
th{color:var(--soft);font-weight:600;white-space:nowrap}
td.text{white-space:pre-wrap;overflow-wrap:anywhere;font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace;min-width:220px}
td.number{font-variant-numeric:tabular-nums;text-align:right;white-space:nowrap}th.number{text-align:right}
.up{color:var(--good)}.down{color:var(--bad)}
.config{columns:3 300px;column-gap:28px;padding:12px 16px;font-size:13.5px}
.config div{display:flex;justify-content:space-between;gap:12px;break-inside:avoid;padding:2px 0;border-bottom:1px dotted var(--rule)}
.config span{color:var(--soft)}.config b{font-weight:500;text-align:right;overflow-wrap:anywhere}.config .set{color:var(--ink);font-weight:600}
footer{margin-top:28px;color:var(--soft);font-size:13px}
`;

/** Shows the values under the pointer. */
export const reportScript = `
for(const figure of document.querySelectorAll('figure.chart')){
  const {scale,unit,data}=JSON.parse(figure.dataset.chart),svg=figure.querySelector('svg'),cursor=svg.querySelector('.cursor');
  const tip=figure.appendChild(Object.assign(document.createElement('div'),{className:'tip'}));
  svg.addEventListener('pointermove',event=>{
    const box=svg.getBoundingClientRect(),pixel=box.width/svg.viewBox.baseVal.width;
    const at=((event.clientX-box.left)/pixel-scale.left)/(scale.right-scale.left);
    const x=scale.lowX+Math.min(1,Math.max(0,at))*(scale.highX-scale.lowX);
    const near=points=>points.reduce((a,b)=>Math.abs(b[0]-x)<Math.abs(a[0]-x)?b:a);
    const step=near(data[0].points)[0],px=scale.left+(step-scale.lowX)/(scale.highX-scale.lowX)*(scale.right-scale.left);
    cursor.setAttribute('x1',px);cursor.setAttribute('x2',px);cursor.style.visibility='visible';
    tip.textContent='step '+step+data.map(s=>'\\n'+(data.length>1?s.name+'  ':'')+near(s.points)[1]+unit).join('');
    tip.style.display='block';
    const left=box.left-figure.getBoundingClientRect().left+px*pixel,room=left+tip.offsetWidth+18<figure.clientWidth;
    tip.style.left=(room?left+10:Math.max(4,left-tip.offsetWidth-10))+'px';tip.style.top='44px';
  });
  svg.addEventListener('pointerleave',()=>{cursor.style.visibility='hidden';tip.style.display='none'});
}
`;
