export default function (ofTheChat) {
var chunk=(()=>{var Ge=Object.create;var X=Object.defineProperty;var Ue=Object.getOwnPropertyDescriptor;var Ze=Object.getOwnPropertyNames;var Ye=Object.getPrototypeOf,Xe=Object.prototype.hasOwnProperty;var S=(t,e)=>()=>{try{return e||t((e={exports:{}}).exports,e),e.exports}catch(s){throw e=0,s}},Je=(t,e)=>{for(var s in e)X(t,s,{get:e[s],enumerable:!0})},At=(t,e,s,r)=>{if(e&&typeof e=="object"||typeof e=="function")for(let n of Ze(e))!Xe.call(t,n)&&n!==s&&X(t,n,{get:()=>e[n],enumerable:!(r=Ue(e,n))||r.enumerable});return t};var $=(t,e,s)=>(s=t!=null?Ge(Ye(t)):{},At(e||!t||!t.__esModule?X(s,"default",{value:t,enumerable:!0}):s,t)),Qe=t=>At(X({},"__esModule",{value:!0}),t);var C=S((zr,Lt)=>{Lt.exports=ofTheChat["vendor.js"]});var Et=S((Mr,Rt)=>{Rt.exports=ofTheChat["link.js"]});var $t=S((Ar,Ot)=>{Ot.exports=ofTheChat["picture.js"]});var I=S((Lr,jt)=>{jt.exports=ofTheChat["strings.js"]});var Dt=S((Er,Ft)=>{Ft.exports=ofTheChat["composer.js"]});var D=S((jr,Bt)=>{Bt.exports=ofTheChat["icons.js"]});var xt=S((Nr,$e)=>{$e.exports=ofTheChat["guard.js"]});var wt=S((Hr,pe)=>{pe.exports=ofTheChat["markdown.js"]});var kt=S((Wr,fe)=>{fe.exports=ofTheChat["widget_context.js"]});var Ie=S((Vr,Ce)=>{Ce.exports=ofTheChat["widget_tree.js"]});var _e=S((Zr,Pe)=>{Pe.exports=ofTheChat["messages.js"]});var Cr={};Je(Cr,{ClientToolCall:()=>Zt,GeneratedImage:()=>_t,Node:()=>ct,StructuredInput:()=>Vt,TaskItem:()=>Ke,WorkflowItem:()=>Ve});var z=$(C(),1),qt=$(Et(),1),Pt=$($t(),1),M=$(I(),1);function ts(t){let e=Math.round((t.progress??0)*100);return e>0?M.strings.image.progress(e):M.strings.image.creating}function _t({item:t,live:e}){let[s,r]=(0,z.useState)(!1),n=t.image?.url;if(!n&&!e)return z.html`<p class="image-missing">${M.strings.image.missing}</p>`;let a=o=>e||/^data:/i.test(n)?o:z.html`<${qt.Link} to=${n}
aria-label=${M.strings.image.open}>${o}<//>`,i=()=>r(!0);return z.html`<figure class=${`generated ${e?"is-live":""}`} data-testid="generated-image">
${n?z.html`<${Pt.Picture} url=${n} alt=${M.strings.image.alt} wrap=${a} class=${s?"":"is-loading"}
onLoad=${i} onError=${i} />`:null}
${e?z.html`<figcaption><span class="shimmer">${ts(t)}</span>
<progress max="1" value=${t.progress??null} aria-label=${M.strings.image.creating}></progress>
</figcaption>`:null}
</figure>`}var Ht=$(Dt(),1),m=$(C(),1),Wt=$(I(),1),k=Wt.strings.structured,F={values:[],other:!1,custom:""};function Kt(t){let e=t.other?t.custom.trim():"";return e?[...t.values,e]:t.values}function es(t,e){let s=t.map(({id:r})=>{let n=Kt(e[r]??F);return[r,n.length?{values:n}:{values:[],skipped:!0}]});return{status:"answered",answers:Object.fromEntries(s)}}function Nt({type:t,name:e,label:s,checked:r,onChange:n}){return m.html`<label class="choice">
<input type=${t} name=${e} checked=${r} onChange=${n} /><span>${s}</span>
</label>`}function ss(t,e){return t.includes(e)?t.filter(s=>s!==e):[...t,e]}function rs({input:t,name:e,answer:s,onAnswer:r}){let n=t.multiple===!0,a=n?"checkbox":"radio",i=c=>r(n?{...s,values:ss(s.values,c)}:{...F,custom:s.custom,values:[c]}),o=()=>r(n?{...s,other:!s.other}:{...s,values:[],other:!0}),u=c=>r({...s,other:!0,custom:c.currentTarget.value,values:n?s.values:[]});return m.html`<fieldset>
<legend>${t.question}</legend>
${n?m.html`<p class="question-note">${k.chooseMany}</p>`:null}
${t.options.map(({value:c})=>m.html`<${Nt} key=${c} type=${a} name=${e}
label=${c} checked=${s.values.includes(c)} onChange=${()=>i(c)} />`)}
<div class="choice-other">
<${Nt} type=${a} name=${e} label=${k.other} checked=${s.other} onChange=${o} />
${s.other?m.html`<input class="field" value=${s.custom} placeholder=${k.otherPlaceholder}
aria-label=${k.otherPlaceholder} onInput=${u} />`:null}
</div>
</fieldset>`}function ns({input:t,name:e,answer:s,onAnswer:r}){let n=a=>r({...F,other:!0,custom:a.currentTarget.value});return m.html`<div class="freeform">
<label for=${e}>${t.question}</label>
${t.description?m.html`<p class="question-note">${t.description}</p>`:null}
<textarea id=${e} class="field" rows="3" value=${s.custom}
placeholder=${k.freeform} onInput=${n}></textarea>
</div>`}function as({isMissed:t,...e}){return m.html`<div class="question"><${e.input.type==="freeform"?ns:rs} ...${e} />
${t?m.html`<p class="question-missed">${k.noAnswer}</p>`:null}</div>`}function is({item:t}){return m.html`<div class="card structured is-answered" data-testid="structured-input">
<dl>${t.inputs.map(({id:e,question:s,answer:r})=>m.html`<div key=${e}>
<dt>${s}</dt>
<dd class=${r?.values?.length?"":"is-skipped"}>
${r?.values?.length?r.values.join(", "):k.skipped}</dd>
</div>`)}</dl>
</div>`}function ls(t){let e=t.filter(({type:s})=>s!=="freeform");return e.length>0?e:t}function os({item:t,conversation:e,phase:s}){let[r,n]=(0,m.useState)({}),[a,i]=(0,m.useState)(!1),o=(0,m.useRef)(null),u=s!=="idle",c=({id:d})=>Kt(r[d]??F).length===0,b=!t.inputs.every(c),y=ls(t.inputs).filter(c),E=({id:d})=>`${t.id}-${d}`,T=d=>a&&y.includes(d),U=d=>{if(d.preventDefault(),!b||u)return;if(y.length===0||a)return Z(es(t.inputs,r));i(!0);let Y=CSS.escape(E(y[0]));o.current.querySelector(`[name="${Y}"], #${Y}`).focus()},Z=d=>{e.answer(t.id,d),(0,Ht.focusComposer)()},ut=()=>Z({status:"skipped",answers:{}});return m.html`<form ref=${o} class="card structured" data-testid="structured-input" data-item-id=${t.id} onSubmit=${U}>
<h2>${t.inputs.length>1?k.titleMany:k.title}</h2>
${t.inputs.map(d=>m.html`<${as} key=${d.id} input=${d}
name=${E(d)} isMissed=${T(d)} answer=${r[d.id]??F}
onAnswer=${Y=>n(Be=>({...Be,[d.id]:Y}))} />`)}
${a&&y.length>0?m.html`<p class="question-missed" role="alert">${k.unanswered(y.length)}</p>`:null}
<div class="card-buttons">
<button type="button" class="button is-quiet" data-testid="structured-skip" disabled=${u}
onClick=${ut}>${k.skip}</button>
<button type="submit" class="button is-primary" data-testid="structured-submit"
disabled=${u||!b}>${k.submit}</button>
</div>
</form>`}function Vt(t){let e=t.item.status==="pending"&&!t.isPast;return m.html`<${e?os:is} ...${t} />`}var O=$(C(),1),Ut=$(D(),1),N=$(I(),1);function cs(t){return typeof t=="string"?t:JSON.stringify(t,null,2)}function Gt({label:t,value:e}){return e==null||typeof e=="object"&&Object.keys(e).length===0?null:O.html`<dt>${t}</dt><dd><pre tabindex="0">${cs(e)}</pre></dd>`}function us(t,e){return e?"running":t.status==="pending"?"waiting":t.output?.error?"failed":"completed"}var $s={failed:"warning",completed:"check",waiting:"clock"};function ps(t){let e=t.replace(/(\p{Ll})(\p{Lu})/gu,(s,r,n)=>`${r} ${n.toLowerCase()}`).replace(/[_.-]+/g," ").trim();return e.charAt(0).toUpperCase()+e.slice(1)}function Zt({item:t,conversation:e,isLast:s,phase:r}){let n=t.status==="pending"&&s&&r==="streaming",a=us(t,n),i=a==="waiting"&&s&&r==="idle";return O.html`<details class=${`tool is-${a}`} data-testid="tool">
<summary>
${n?O.html`<span class="spinner"></span>`:O.html`<${Ut.Icon} name=${$s[a]} size=${16} />`}
<span title=${t.name}>${ps(String(t.name))}</span><span class="tool-status">${N.strings.tool[a]}</span>
${i?O.html`<button type="button" class="button is-small"
onClick=${()=>e.runTool(t)}>${N.strings.tool.resume}</button>`:null}
</summary>
<dl><${Gt} label=${N.strings.tool.arguments} value=${t.arguments} />
<${Gt} label=${N.strings.tool.output} value=${t.output} /></dl>
</details>`}var l=$(C(),1);var f=$(C(),1),V=$(I(),1);function Yt(t,e,s=4){let n=(e-t||1)/s,a=10**Math.floor(Math.log10(n)),i=[1,2,2.5,5,10].map(c=>c*a).find(c=>c>=n),o=Math.floor(t/i),u=Math.ceil(e/i);return Array.from({length:u-o+1},(c,b)=>fs((o+b)*i))}var fs=t=>Number(t.toPrecision(12)),ms=(t,e)=>Number(t[e])||0;function Xt(t,e){let s=new Map;return e.map(r=>t.map((n,a)=>{let i=ms(n,r.dataKey);if(r.stack==null)return[0,i];let o=`${r.stack}/${a}/${i<0}`,u=s.get(o)??0;return s.set(o,u+i),[u,u+i]}))}function Jt([t,e],s){return r=>s-(r-t)/(e-t||1)*s}function J(t,e="linear"){return t.length===0?"":e?.startsWith("step")?ds(t,e):e==null||e.startsWith("linear")||t.length<3?Qt(t):hs(t)}var H=([t,e])=>`${t.toFixed(1)},${e.toFixed(1)}`;function Qt(t){return`M${t.map(H).join("L")}`}function ds(t,e){let s={stepBefore:0,stepAfter:1}[e]??.5,r=t.slice(1).flatMap((n,a)=>{let[i,o]=t[a],u=i+(n[0]-i)*s;return[[u,o],[u,n[1]],n]});return Qt([t[0],...r])}function hs(t){let e=gs(t),s=t.slice(1).map((r,n)=>{let[a,i]=t[n],o=(r[0]-a)/3;return`C${H([a+o,i+e[n]*o])} ${H([r[0]-o,r[1]-e[n+1]*o])} ${H(r)}`});return`M${H(t[0])}${s.join("")}`}function gs(t){let e=t.slice(1).map(([s,r],n)=>(r-t[n][1])/(s-t[n][0]));return t.map((s,r)=>{let n=e[r-1]??e[r],a=e[r]??n;return n*a<=0?0:2*n*a/(n+a)})}var bs={prose:"--text",primary:"--text",emphasis:"--ink",secondary:"--text-secondary",tertiary:"--text-tertiary",success:"--success",warning:"--warning",danger:"--danger"},ys={surface:"--surface","surface-secondary":"--surface-secondary","surface-tertiary":"--surface-tertiary","surface-elevated":"--surface-elevated","surface-elevated-secondary":"--surface-elevated-secondary"},xs={default:"--line",subtle:"--line-subtle",strong:"--line-strong"},te={blue:"blue-400",purple:"purple-400",orange:"orange-400",green:"green-400",red:"red-400",yellow:"yellow-400",pink:"pink-400"},ws={gray:250,red:25,orange:55,yellow:90,green:150,blue:255,purple:300,pink:350},ks=/^(gray|red|orange|yellow|green|blue|purple|pink)-(\d{1,4})$/;function Ss(t,e){let s=Math.min(Math.max(e,0),1e3)/1e3,r=.985-.78*s**.9,n=t==="gray"?.006:.21*Math.sin(Math.PI*Math.min(s*.95+.03,1));return`oklch(${r.toFixed(3)} ${n.toFixed(3)} ${ws[t]})`}function pt(t,e){if(Object.hasOwn(e,t))return`var(${e[t]})`;let s=ks.exec(t);return s?Ss(s[1],Number(s[2])):CSS.supports("color",t)?t:void 0}function W(t,e){if(t==null)return;if(typeof t=="string")return pt(t,e);let s=pt(t.light??"",e),r=pt(t.dark??"",e);return s&&r?`light-dark(${s}, ${r})`:s??r}var ft=t=>W(t,bs),Q=t=>W(t,ys),mt=t=>W(t,xs),ee=["blue","orange","green","purple","red","yellow","pink"];function tt(t,e){let s=typeof t=="string"?te[t]??t:t;return W(s,{})??W(te[ee[e%ee.length]],{})}function g(t){return`calc(${t} * var(--rem))`}function A(t){if(t==null)return;let e=Number(t);return Number.isFinite(e)&&t!==""?g(e*.25):String(t)}function x(t){return typeof t=="number"?`${t}px`:t??void 0}var vs=["top","right","bottom","left"];function Ts(t){return t==="top"||t==="bottom"?"y":"x"}function Cs(t){return t[0].toUpperCase()+t.slice(1)}function ae(t,e,s,r=""){let n=vs.map(a=>[`${e}${Cs(a)}${r}`,s(t[a]??t[Ts(a)])]);return Object.fromEntries(n.filter(([,a])=>a!==void 0))}function j(t,e){return e==null?{}:typeof e=="object"?ae(e,t,A):{[t]:A(e)}}function se(t){if(t!=null)return typeof t=="number"?`${t}px solid var(--line)`:`${t.size??1}px ${t.style??"solid"} ${mt(t.color)??"var(--line)"}`}function dt(t){return t==null?{}:typeof t=="number"||"size"in t?{border:se(t)}:ae(t,"border",se)}var Is={"2xs":"2px",xs:"4px",sm:"6px",md:"8px",lg:"10px",xl:"12px","2xl":"16px","3xl":"20px","4xl":"24px",full:"9999px","100%":"100%",none:"0"},ht=t=>Is[t];function K(t){return{width:x(t.width??t.size),height:x(t.height??t.size),minWidth:x(t.minWidth??t.minSize),minHeight:x(t.minHeight??t.minSize),maxWidth:x(t.maxWidth??t.maxSize),maxHeight:x(t.maxHeight??t.maxSize),aspectRatio:t.aspectRatio,flex:t.flex}}var ie={start:"flex-start",end:"flex-end"},zs={...ie,between:"space-between",around:"space-around",evenly:"space-evenly"};function gt(t,e){return{flexDirection:e==="row"?"row":"column",alignItems:ie[t.align]??t.align,justifyContent:zs[t.justify]??t.justify,flexWrap:t.wrap,gap:A(t.gap),borderRadius:ht(t.radius),backgroundColor:Q(t.background),...K(t),...j("padding",t.padding),...j("margin",t.margin),...dt(t.border)}}var re={xs:g(.75),sm:g(.8438),md:g(.9375),lg:g(1.0625),xl:g(1.25)},Ms={sm:g(1),md:g(1.125),lg:g(1.25),xl:g(1.5),"2xl":g(1.75),"3xl":g(2.125),"4xl":g(2.5),"5xl":g(3)},As={sm:g(.7188),md:g(.7812),lg:g(.8438)},Ls={normal:400,medium:500,semibold:600,bold:700},Rs={Title:Ms,Caption:As,Text:re,Label:re};function L(t){let e=t.truncate?1:t.maxLines;return{color:ft(t.color),fontSize:Rs[t.type]?.[t.size],fontWeight:Ls[t.weight],textAlign:t.textAlign,width:x(t.width),fontStyle:t.italic?"italic":void 0,textDecoration:t.lineThrough?"line-through":void 0,minHeight:t.minLines?`${t.minLines}lh`:void 0,...e?{"--lines":e}:{}}}var Es={"3xs":1.375,"2xs":1.5,xs:1.625,sm:1.875,md:2.125,lg:2.375,xl:2.625,"2xl":2.875,"3xl":3.125};function q(t){let e=Es[t.size];return{...e?{"--control":g(e)}:{},...t.gutterSize?{paddingInline:A(Os[t.gutterSize])}:{}}}var Os={"2xs":1,xs:1.5,sm:2,md:2.5,lg:3,xl:4},ne={xs:12,sm:14,md:18,lg:20,xl:24,"2xl":30,"3xl":36},et=(t,e="md")=>ne[t]??ne[e];var js=220,P={top:10,right:8,bottom:26,left:8},oe=7.2,qs=t=>t.toLocaleString((0,V.locale)(),{notation:"compact",maximumFractionDigits:2}),ce=t=>typeof t=="number"?t.toLocaleString((0,V.locale)(),{maximumFractionDigits:20}):t;function rt(t){return typeof t.xAxis=="string"?{dataKey:t.xAxis}:t.xAxis??{}}function Ps(t){let[e,s]=(0,f.useState)({width:0,height:0});return(0,f.useEffect)(()=>{let r=new ResizeObserver(([n])=>{let{width:a,height:i}=n.contentRect;s({width:a,height:i})});return r.observe(t.current),()=>r.disconnect()},[]),e}function _s(t,{width:e,height:s}){let r=Xt(t.data,t.series),n=r.flat(2),a=Yt(Math.min(0,...n),Math.max(0,...n)),i=a.map(T=>qs(T)),o=t.showYAxis?Math.max(...i.map(T=>T.length))*oe+12:P.left,u=rt(t).hide?P.top:P.bottom,c={left:o,top:P.top,width:Math.max(e-o-P.right,1),height:Math.max(s-P.top-u,1)},b=Jt([a[0],a.at(-1)],c.height),y=c.width/Math.max(t.data.length,1);return{spans:r,marks:a,labels:i,plot:c,x:T=>y*(T+.5),y:b,band:y,zero:b(0)}}function Fs(t){let e=new Map;for(let s of t){if(s.type!=="bar")continue;let r=s.stack??s;e.has(r)||e.set(r,e.size)}return{indexOf:s=>e.get(s.stack??s),count:e.size}}function Ds({node:t,each:e,index:s,layout:r,color:n}){let{spans:a,y:i,band:o}=r,u=Fs(t.series),c=t.barGap??4,b=Math.min(o-(t.barCategoryGap??o*.3),u.count*56),y=Math.max((b-c*(u.count-1))/u.count,1);return a[s].map(([E,T],U)=>{let Z=r.x(U)-b/2+u.indexOf(e)*(y+c),ut=Math.min(i(E),i(T)),d=Math.abs(i(E)-i(T));return f.html`<rect key=${U} x=${Z} y=${ut} width=${y} height=${d}
rx=${Math.min(3,y/2,d/2)} fill=${n} />`})}function bt(t,e,s){return t.map((r,n)=>[e.x(n),e.y(r[s])])}function yt({each:t,index:e,layout:s,color:r}){let n=bt(s.spans[e],s,1);return f.html`<path d=${J(n,t.curveType)} fill="none" stroke=${r}
stroke-width="2" stroke-linejoin="round" stroke-linecap="round" />`}function Ns(t){let{each:e,index:s,layout:r,color:n}=t,a=J(bt(r.spans[s],r,1),e.curveType),i=J(bt(r.spans[s],r,0).reverse(),e.curveType);return f.html`<path d=${`${a}${i.replace("M","L")}Z`} fill=${n} opacity="0.2" /><${yt} ...${t} />`}var Hs={bar:Ds,line:yt,area:Ns};function Ws({node:t,layout:e}){return e.marks.map((s,r)=>f.html`<g key=${s}>
<line x1="0" x2=${e.plot.width} y1=${e.y(s)} y2=${e.y(s)}
class=${s===0?"chart-zero":"chart-grid"} />
${t.showYAxis?f.html`<text x="-8" y=${e.y(s)} dy="0.32em" text-anchor="end">
${e.labels[r]}</text>`:null}</g>`)}function st(t,e){let{dataKey:s,labels:r}=rt(t),n=String(e[s]??"");return r?.[n]??n}function Ks({node:t,layout:e}){if(rt(t).hide)return null;let s=Math.max(...t.data.map(n=>st(t,n).length),1),r=Math.max(1,Math.ceil((s*oe+8)/e.band));return t.data.map((n,a)=>a%r?null:f.html`
<text key=${a} x=${e.x(a)} y=${e.plot.height+18} text-anchor="middle">
${st(t,n)}</text>`)}function Vs({node:t}){return t.showLegend?f.html`<ul class="chart-legend" aria-hidden="true">${t.series.map((e,s)=>f.html`
<li key=${e.dataKey}><i style=${{backgroundColor:tt(e.color,s)}}></i>
${e.label??e.dataKey}</li>`)}</ul>`:null}function Bs({node:t,layout:e,row:s}){if(s===null)return null;let r=e.plot.left+e.x(s),n=r>e.plot.width*.6?"is-left":"";return f.html`<div class=${`chart-tooltip ${n}`} style=${{left:`${r}px`}} aria-hidden="true">
<strong>${st(t,t.data[s])}</strong>
${t.series.map((a,i)=>f.html`<span key=${a.dataKey}>
<i style=${{backgroundColor:tt(a.color,i)}}></i>${a.label??a.dataKey}
<b>${ce(t.data[s][a.dataKey])}</b></span>`)}</div>`}function Gs({node:t}){return f.html`<table class="visually-hidden"><caption>${V.strings.widget.chart}</caption>
<thead><tr><th scope="col">${rt(t).dataKey}</th>${t.series.map(e=>f.html`
<th key=${e.dataKey} scope="col">${e.label??e.dataKey}</th>`)}</tr></thead>
<tbody>${t.data.map((e,s)=>f.html`<tr key=${s}>
<th scope="row">${st(t,e)}</th>${t.series.map(r=>f.html`
<td key=${r.dataKey}>${ce(e[r.dataKey])}</td>`)}</tr>`)}</tbody></table>`}function Us({node:t,size:e}){let[s,r]=(0,f.useState)(null),n=_s(t,e),{plot:a,band:i}=n,o=c=>{let b=c.clientX-c.currentTarget.getBoundingClientRect().left-a.left,y=Math.floor(b/i);r(y>=0&&y<t.data.length?y:null)},u=t.showTooltip===!1?{}:{onPointerMove:o,onPointerLeave:()=>r(null)};return f.html`<svg width=${e.width} height=${e.height} aria-hidden="true" ...${u}>
<g transform=${`translate(${a.left} ${a.top})`}>
${s===null?null:f.html`<rect class="chart-hover" x=${i*s} y="0" width=${i} height=${a.height} />`}
<${Ws} node=${t} layout=${n} />
${t.series.map((c,b)=>f.html`<${Hs[c.type]??yt} key=${c.dataKey}
node=${t} each=${c} index=${b} layout=${n} color=${tt(c.color,b)} />`)}
<${Ks} node=${t} layout=${n} />
</g>
</svg>
<${Bs} node=${t} layout=${n} row=${s} />`}function ue({node:t}){let e=(0,f.useRef)(null),s=Ps(e),r=K(t),n={...r,height:r.height??(r.aspectRatio?void 0:x(js))};return f.html`<figure class="chart" style=${{flex:r.flex}}>
<div ref=${e} class="chart-plot" style=${n}>
${s.width>0?f.html`<${Us} node=${t} size=${s} />`:null}</div>
<${Vs} node=${t} /><${Gs} node=${t} />
</figure>`}var Ae=$(xt(),1),ot=$(D(),1),Le=$(wt(),1),zt=$($t(),1),Re=$(I(),1);var p=$(C(),1),vt=$(D(),1),me=$(I(),1),v=$(kt(),1);var de=me.strings.widget,Zs=new Set(["text","email","number","password","tel","url"]);function nt(t){let e=t.pill?"is-pill":"";return`is-${t.variant??"outline"} ${e} ${t.block?"is-block":""}`}function Ys(t){let e=t.style==="primary"||t.submit&&!t.style,s=t.color??(e?"primary":"secondary"),r=t.variant??(e||t.color?"solid":"outline"),n=[t.pill&&"is-pill",t.uniform&&"is-uniform",t.block&&"is-block"];return`is-${r} is-${s} ${n.filter(Boolean).join(" ")}`}function he({node:t}){let{run:e,busy:s}=(0,v.useAction)(t.onClickAction),r=et(t.iconSize,"sm"),n=a=>a?p.html`<${vt.Icon} name=${a} size=${r} />`:null;return p.html`<button type=${t.submit?"submit":"button"} class=${`w-button ${Ys(t)}`}
style=${q(t)} disabled=${t.disabled||s}
aria-label=${t.label?null:t.iconStart??t.iconEnd} aria-busy=${String(s)}
onClick=${a=>e(a.currentTarget)}>
${s?p.html`<span class="spinner"></span>`:n(t.iconStart)}
${t.label?p.html`<span>${t.label}</span>`:null}${n(t.iconEnd)}</button>`}function at(t){let[e,s]=(0,p.useState)(t),r=(0,p.useRef)(t);return(0,p.useEffect)(()=>{r.current!==t&&s(t),r.current=t},[t]),[e,s]}function Tt(t){let e=(0,p.useRef)(null);return(0,p.useEffect)(()=>{t.autoFocus&&e.current.focus(),t.autoSelect&&e.current.select()},[]),e}function Ct(t){return t.autoComplete?{autocomplete:t.autoComplete}:t.allowAutofillExtensions?{}:{autocomplete:"off","data-1p-ignore":"","data-lpignore":"true"}}function ge({node:t}){let e=Tt(t),s=(0,v.useFieldId)(t.name),[r,n]=at(t.defaultValue??"");return p.html`<input ref=${e} id=${s} name=${t.name} type=${Zs.has(t.inputType)?t.inputType:"text"}
class=${`w-field ${nt(t)}`} style=${q(t)} value=${r}
aria-label=${t.placeholder??t.name} aria-labelledby=${`${s}-label`}
placeholder=${t.placeholder} pattern=${t.pattern} required=${t.required}
disabled=${t.disabled} ...${Ct(t)}
onInput=${a=>n(a.currentTarget.value)} />`}function Xs(t,e,s){(0,p.useLayoutEffect)(()=>{if(!e.autoResize)return;let{style:r}=t.current;r.height="auto",r.height=`${t.current.scrollHeight+2}px`},[s,e.autoResize])}function be({node:t}){let e=Tt(t),s=(0,v.useFieldId)(t.name),[r,n]=at(t.defaultValue??"");Xs(e,t,r);let a={...q(t),maxHeight:t.maxRows?`calc(${t.maxRows}lh + var(--rem))`:void 0};return p.html`<textarea ref=${e} id=${s} name=${t.name} rows=${t.rows??3}
class=${`w-field is-area ${nt(t)}`} style=${a} value=${r}
aria-label=${t.placeholder??t.name} aria-labelledby=${`${s}-label`}
placeholder=${t.placeholder} required=${t.required} disabled=${t.disabled}
...${Ct(t)} onInput=${i=>n(i.currentTarget.value)}></textarea>`}function ye({node:t}){let{editable:e}=t,s=Tt(e),[r,n]=at(t.value??"");return p.html`<input ref=${s} class="w-editable" name=${e.name} style=${L(t)} value=${r}
aria-label=${e.placeholder??e.name} placeholder=${e.placeholder}
pattern=${e.pattern} required=${e.required} ...${Ct(e)}
onInput=${a=>n(a.currentTarget.value)} />`}function xe({node:t}){let e=(0,v.useFieldId)(t.fieldName);return p.html`<label id=${`${e}-label`} for=${e} class="w-label" style=${L(t)}>${t.value}</label>`}function we({node:t,value:e,onClear:s}){return!t.clearable||!e||t.disabled?null:p.html`<button type="button" class="icon-button is-small" aria-label=${de.clear} onClick=${s}>
<${vt.Icon} name="close" size=${14} /></button>`}function it(t,e){let{run:s,busy:r}=(0,v.useAction)(t.onChangeAction),[n,a]=at(e);return{value:n,change:(o,u)=>{a(u),s(o,{[t.name]:u})},busy:r}}function Js(t){return t.description?`${t.label} — ${t.description}`:t.label}function ke({node:t}){let e=(0,v.useFieldId)(t.name),s=(0,p.useRef)(null),{value:r,change:n,busy:a}=it(t,t.defaultValue??"");return p.html`<span class=${`w-clearable ${t.block?"is-block":""}`}>
<select ref=${s} id=${e} name=${t.name} class=${`w-field is-select ${nt(t)} ${r?"":"is-empty"}`}
style=${q(t)} aria-label=${t.placeholder??t.name} aria-labelledby=${`${e}-label`}
disabled=${t.disabled||a} onChange=${i=>n(i.currentTarget,i.currentTarget.value)}>
<option value="" disabled=${!t.clearable} hidden=${!t.clearable} selected=${r===""}>
${t.placeholder??de.select}</option>
${(t.options??[]).map(i=>p.html`<option key=${i.value} value=${i.value}
disabled=${i.disabled} selected=${i.value===r}>${Js(i)}</option>`)}
</select>
<${we} node=${t} value=${r} onClear=${()=>n(s.current,"")} />
</span>`}var St=t=>t?String(t).slice(0,10):"";function Se({node:t}){let e=(0,v.useFieldId)(t.name),s=(0,p.useRef)(null),{value:r,change:n,busy:a}=it(t,St(t.defaultValue));return p.html`<span class=${`w-clearable ${t.block?"is-block":""}`}>
<input ref=${s} type="date" id=${e} name=${t.name} class=${`w-field ${nt(t)}`}
style=${q(t)} value=${r} min=${St(t.min)||void 0} max=${St(t.max)||void 0}
aria-label=${t.placeholder??t.name} aria-labelledby=${`${e}-label`} title=${t.placeholder}
disabled=${t.disabled||a} onChange=${i=>n(i.currentTarget,i.currentTarget.value)} />
<${we} node=${t} value=${r} onClear=${()=>n(s.current,"")} />
</span>`}function ve({node:t}){let e=(0,v.useFieldId)(t.name),{value:s,change:r,busy:n}=it(t,t.defaultChecked===!0);return p.html`<label class="w-check">
<input type="checkbox" id=${e} name=${t.name} checked=${s} required=${t.required}
disabled=${t.disabled||n} aria-label=${t.label?null:t.name}
onChange=${a=>r(a.currentTarget,a.currentTarget.checked)} />
${t.label?p.html`<span>${t.label}</span>`:null}</label>`}function Te({node:t}){let e=(0,v.useFieldId)(t.name),{value:s,change:r}=it(t,t.defaultValue??null);return p.html`<div id=${e} role="radiogroup" aria-label=${t.ariaLabel??t.name}
class=${`w-radios is-${t.direction??"row"}`}>
${(t.options??[]).map(n=>p.html`<label key=${n.value} class="w-check">
<input type="radio" name=${t.name} value=${n.value} checked=${n.value===s}
required=${t.required} disabled=${t.disabled||n.disabled}
onChange=${a=>r(a.currentTarget,n.value)} /><span>${n.label}</span>
</label>`)}</div>`}var B=$(kt(),1),G=$(Ie(),1);var It=Re.strings.widget,Qs=5;function R({of:t}){return(0,G.childList)(t).map((e,s)=>typeof e=="string"?e:l.html`<${ct} key=${e?.key??e?.id??s} node=${e} />`)}function Ee({status:t}){if(!t)return null;let e=t.favicon?l.html`<${zt.Picture} url=${t.favicon} look="is-tiny" class=${`w-favicon ${t.frame?"is-framed":""}`} />`:t.icon?l.html`<${ot.Icon} name=${t.icon} size=${15} />`:null;return l.html`<div class="w-status">${e}<span>${t.text}</span></div>`}function ze({config:t,primary:e,form:s}){let{run:r,busy:n}=(0,B.useAction)(t.action),a=e&&s;return l.html`<button type=${a?"submit":"button"} disabled=${n}
class=${`button ${e?"is-primary":""}`} data-testid=${e?"card-confirm":"card-cancel"}
onClick=${a?null:i=>r(i.currentTarget)}>
${n?l.html`<span class="spinner"></span>`:null}${t.label}</button>`}function tr({node:t}){return!t.confirm&&!t.cancel?null:l.html`<div class="card-buttons w-card-actions">
${t.cancel?l.html`<${ze} config=${t.cancel} />`:null}
${t.confirm?l.html`<${ze} config=${t.confirm} primary form=${t.asForm} />`:null}
</div>`}function er({node:t}){let[e,s]=(0,l.useState)(null),{run:r}=(0,B.useAction)(t.confirm?.action),n=e??!t.collapsed,a=o=>{o.preventDefault(),r(o.currentTarget)},i={backgroundColor:Q(t.background),...j("padding",t.padding),...dt(t.border)};return l.html`<${t.asForm?"form":"div"} class=${`w-card is-${t.size??"md"} ${n?"":"is-collapsed"}`}
style=${i} data-theme=${t.theme??null} onSubmit=${t.asForm?a:null}>
${t.status||t.collapsed?l.html`<div class="w-card-head"><${Ee} status=${t.status} />
${t.collapsed?l.html`<${sr} open=${n} onToggle=${()=>s(!n)} />`:null}</div>`:null}
${n?l.html`<div class="w-card-body"><${R} of=${t} /></div>
<${tr} node=${t} />`:null}
<//>`}function sr({open:t,onToggle:e}){let s=t?It.collapse:It.expand;return l.html`<button type="button" class="icon-button is-small" aria-label=${s} title=${s}
aria-expanded=${String(t)} onClick=${e}>
<span class=${`turner ${t?"is-open":""}`}><${ot.Icon} name="chevron-right" size=${16} /></span></button>`}function rr(t){return t==="auto"?Qs:Number.isInteger(t)&&t>0?t:1/0}function nr({node:t}){let[e,s]=(0,l.useState)(!1),r=(0,G.childList)(t),n=e?r:r.slice(0,rr(t.limit)),a=r.length-n.length;return l.html`<div class="w-list" data-theme=${t.theme??null}>
${t.status?l.html`<div class="w-card-head"><${Ee} status=${t.status} /></div>`:null}
<ul><${R} of=${{children:n}} /></ul>
${a?l.html`<button type="button" class="w-list-more" onClick=${()=>s(!0)}>
${It.more(a)}</button>`:null}
</div>`}function ar({node:t}){let{run:e,busy:s}=(0,B.useAction)(t.onClickAction),r=(0,l.useId)(),n={gap:A(t.gap??2),alignItems:t.align??"center"},a=l.html`<${R} of=${t} />${s?l.html`<span class="spinner"></span>`:null}`;if(!t.onClickAction)return l.html`<li class="w-row" style=${n}>${a}</li>`;let i=o=>{let u=o.target.closest("button, a, input, select, textarea, label");(!u||u.matches(".w-row-button"))&&e(o.currentTarget)};return l.html`<li class="w-row is-action" style=${n} aria-busy=${String(s)} onClick=${i}>
<button type="button" class="w-row-button" aria-labelledby=${r}></button>
<div class="w-row-content" id=${r} style=${n}>${a}</div></li>`}var Mt=t=>t.truncate||t.maxLines?"is-clamped":"";function ir({node:t}){return t.editable?l.html`<${ye} node=${t} />`:l.html`<p class=${`w-text ${Mt(t)} ${t.streaming?"is-streaming":""}`}
style=${L(t)}>${t.value}</p>`}function lr({node:t}){return l.html`<h3 class=${`w-title ${Mt(t)}`} style=${L(t)}>${t.value}</h3>`}function or({node:t}){return l.html`<p class=${`w-caption ${Mt(t)}`} style=${L(t)}>${t.value}</p>`}function cr({node:t}){return l.html`<${Le.Markdown} text=${t.value??""} streaming=${t.streaming===!0} />`}function ur({node:t}){let e=`is-${t.color??"secondary"} is-${t.variant??"soft"} is-${t.size??"sm"}`;return l.html`<span class=${`w-badge ${e} ${t.pill?"is-pill":""}`}>${t.label}</span>`}function Oe(t){return({node:e})=>l.html`<div class=${`w-box is-${t}`} style=${gt(e,t)}>
<${R} of=${e} /></div>`}var je=Oe("row"),lt=Oe("col");function $r({node:t}){return l.html`<${t.direction==="row"?je:lt} node=${t} />`}function pr({node:t}){let{run:e,busy:s}=(0,B.useAction)(t.onSubmitAction),r=a=>{a.preventDefault(),e(a.currentTarget)},n=t.direction??"col";return l.html`<form class=${`w-box is-${n}`} style=${gt(t,n)}
aria-busy=${String(s)} inert=${s} onSubmit=${r}><${R} of=${t} /></form>`}function fr({node:t}){let e={borderTopColor:mt(t.color),borderTopWidth:x(t.size),marginBlock:A(t.spacing)};return l.html`<hr class=${`w-divider ${t.flush?"is-flush":""}`} style=${e} />`}function mr({node:t}){return l.html`<span class="w-spacer" style=${{minWidth:x(t.minSize),minHeight:x(t.minSize)}}></span>`}function dr({node:t}){let[e]=(0,G.childList)(t);if(!e)return null;let s=e.key??e.id??e.type;return l.html`<div class="w-transition" key=${s}><${ct} node=${e} /></div>`}function hr({node:t}){return l.html`<span class="w-icon" style=${{color:ft(t.color)}}>
<${ot.Icon} name=${t.name} size=${et(t.size)} /></span>`}function gr({node:t}){let e={objectFit:t.fit??"cover",objectPosition:t.position,borderRadius:ht(t.radius),backgroundColor:Q(t.background),...K(t),...j("margin",t.margin)},s=`${t.frame?"is-framed":""} ${t.flush?"is-flush":""}`;return l.html`<${zt.Picture} url=${t.src} alt=${t.alt??""} class=${`w-image ${s}`} look=${`w-image ${s}`}
style=${e} />`}function br({node:t}){return l.html`<div class="w-table"><table><tbody><${R} of=${t} /></tbody></table></div>`}function yr({node:t}){let e=(0,G.childList)(t).map((s,r)=>l.html`
<${qe} key=${s?.key??s?.id??r} node=${s} header=${t.header===!0} />`);return l.html`<tr class=${t.header?"is-header":""}>${e}</tr>`}function qe({node:t,header:e=!1}){let s={textAlign:t.align,verticalAlign:t.vAlign,width:x(t.width),...j("padding",t.padding)},r={colspan:t.colSpan??t.colspan,rowspan:t.rowSpan??t.rowspan};return l.html`<${e?"th":"td"} scope=${e?"col":void 0} style=${s} ...${r}>
${t.value??null}<${R} of=${t} /><//>`}var Me={Card:er,ListView:nr,ListViewItem:ar,Text:ir,Title:lr,Caption:or,Chart:ue,Badge:ur,Box:$r,Row:je,Col:lt,Form:pr,Divider:fr,Image:gr,Button:he,Checkbox:ve,Spacer:mr,Select:ke,DatePicker:Se,Input:ge,Label:xe,RadioGroup:Te,Textarea:be,Transition:dr,Table:br,Basic:lt,Icon:hr,Markdown:cr,"Table.Row":yr,"Table.Cell":qe},ct=(0,Ae.guarded)(({node:t})=>{if(!t||typeof t!="object")throw new TypeError("not a component");let e=Object.hasOwn(Me,t.type);return l.html`<${e?Me[t.type]:lt} node=${t} />`},"node");var h=$(C(),1),Fe=$(xt(),1),_=$(D(),1),De=$(wt(),1),Ne=$(_e(),1),He=$(I(),1),w=He.strings.workflow;function xr(t){let e=Math.max(1,Math.round(t));return e<60?w.seconds(e):w.minutes(Math.floor(e/60),e%60)}function wr(t,e){let{type:s,summary:r}=t;if(r?.title)return{icon:r.icon,title:r.title};let n=s==="reasoning",a=n?"lightbulb":"settings-slider";if(r?.duration!=null){let i=xr(r.duration);return{icon:a,title:n?w.thoughtFor(i):w.workedFor(i)}}return e?{icon:a,title:n?w.thinking:w.working}:{icon:a,title:n?w.thought:w.done}}var kr={web_search:t=>t.title_query||t.title||w.search,thought:t=>t.title||(t.content?null:w.thinking),file:t=>t.title||w.file,image:t=>t.title||w.image},Sr={web_search:"search",thought:"lightbulb",file:"document",image:"square-image"};function vr({task:t,live:e}){let s=!e&&t.status_indicator==="loading"?"none":t.status_indicator??"none";return s==="loading"?h.html`<span class="spinner" role="img" aria-label=${w.working}></span>`:s==="complete"?h.html`<${_.Icon} name="check" size=${16} />`:h.html`<${_.Icon} name=${t.icon??Sr[t.type]??"dot"} size=${16} />`}function Tr({task:t}){return t.type==="web_search"||t.type==="file"?h.html`
${t.queries?.length?h.html`<ul class="task-queries">
${t.queries.map(e=>h.html`<li key=${e}><${_.Icon} name="search" size=${13} />${e}</li>`)}
</ul>`:null}
${t.sources?.length?h.html`<ul class="sources">
${t.sources.map((e,s)=>h.html`<li key=${s}>
<${Ne.Source} source=${e} number=${s+1} /></li>`)}</ul>`:null}`:t.content?h.html`<${De.Markdown} text=${t.content} />`:null}var We=(0,Fe.guarded)(({task:t,live:e})=>{let s=(kr[t.type]??(r=>r.title))(t);return h.html`<div class=${`task is-${t.status_indicator??"none"}`} data-testid="task">
<span class="task-mark"><${vr} task=${t} live=${e} /></span>
<div class="task-words">
${s?h.html`<span class="task-title">${s}</span>`:null}
<${Tr} task=${t} />
</div>
</div>`},"task");function Ke({item:t,live:e}){return h.html`<div class="workflow is-single" data-testid="workflow"><${We} task=${t.task} live=${e} /></div>`}function Ve({item:t,live:e}){let[s,r]=(0,h.useState)(null),{workflow:n}=t,a=n.tasks??[],i=s??(e||n.expanded===!0),{icon:o,title:u}=wr(n,e);return h.html`<section class=${`workflow ${e?"is-live":""}`} data-testid="workflow">
<button type="button" class="workflow-head" aria-expanded=${String(i)}
disabled=${a.length===0} onClick=${()=>r(!i)}>
<${_.Icon} name=${o??"settings-slider"} size=${17} />
<span class=${e?"shimmer":""}>${u}</span>
${a.length?h.html`<span class=${`turner ${i?"is-open":""}`}>
<${_.Icon} name="chevron-right" size=${15} /></span>`:null}
</button>
${i&&a.length?h.html`<div class="workflow-tasks">
${a.map((c,b)=>h.html`<${We} key=${b} task=${c} live=${e} />`)}
</div>`:null}
</section>`}return Qe(Cr);})();
return chunk;
}
