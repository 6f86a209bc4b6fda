export default function (ofTheChat) {
var chunk=(()=>{var ve=Object.create;var K=Object.defineProperty;var ke=Object.getOwnPropertyDescriptor;var Se=Object.getOwnPropertyNames;var Ce=Object.getPrototypeOf,Te=Object.prototype.hasOwnProperty;var k=(t,e)=>()=>{try{return e||t((e={exports:{}}).exports,e),e.exports}catch(s){throw e=0,s}},Ie=(t,e)=>{for(var s in e)K(t,s,{get:e[s],enumerable:!0})},xt=(t,e,s,r)=>{if(e&&typeof e=="object"||typeof e=="function")for(let n of Se(e))!Te.call(t,n)&&n!==s&&K(t,n,{get:()=>e[n],enumerable:!(r=ke(e,n))||r.enumerable});return t};var d=(t,e,s)=>(s=t!=null?ve(Ce(t)):{},xt(e||!t||!t.__esModule?K(s,"default",{value:t,enumerable:!0}):s,t)),Me=t=>xt(K({},"__esModule",{value:!0}),t);var vt=k((Bs,wt)=>{wt.exports=ofTheChat["composer.js"]});var R=k((Gs,kt)=>{kt.exports=ofTheChat["vendor.js"]});var E=k((Us,St)=>{St.exports=ofTheChat["strings.js"]});var _t=k((tr,Wt)=>{Wt.exports=ofTheChat["guard.js"]});var $t=k((er,Bt)=>{Bt.exports=ofTheChat["icons.js"]});var Ut=k((sr,Gt)=>{Gt.exports=ofTheChat["markdown.js"]});var Yt=k((rr,Zt)=>{Zt.exports=ofTheChat["picture.js"]});var pt=k((nr,Xt)=>{Xt.exports=ofTheChat["widget_context.js"]});var $e=k((lr,ue)=>{ue.exports=ofTheChat["widget_tree.js"]});var Ws={};Ie(Ws,{Node:()=>et,StructuredInput:()=>zt});var Tt=d(vt(),1),f=d(R(),1),It=d(E(),1),x=It.strings.structured,O={values:[],other:!1,custom:""};function Mt(t){let e=t.other?t.custom.trim():"";return e?[...t.values,e]:t.values}function ze(t,e){let s=t.map(({id:r})=>{let n=Mt(e[r]??O);return[r,n.length?{values:n}:{values:[],skipped:!0}]});return{status:"answered",answers:Object.fromEntries(s)}}function Ct({type:t,name:e,label:s,checked:r,onChange:n}){return f.html`<label class="choice">
<input type=${t} name=${e} checked=${r} onChange=${n} /><span>${s}</span>
</label>`}function Ae(t,e){return t.includes(e)?t.filter(s=>s!==e):[...t,e]}function Re({input:t,name:e,answer:s,onAnswer:r}){let n=t.multiple===!0,a=n?"checkbox":"radio",l=o=>r(n?{...s,values:Ae(s.values,o)}:{...O,custom:s.custom,values:[o]}),c=()=>r(n?{...s,other:!s.other}:{...s,values:[],other:!0}),u=o=>r({...s,other:!0,custom:o.currentTarget.value,values:n?s.values:[]});return f.html`<fieldset>
<legend>${t.question}</legend>
${n?f.html`<p class="question-note">${x.chooseMany}</p>`:null}
${t.options.map(({value:o})=>f.html`<${Ct} key=${o} type=${a} name=${e}
label=${o} checked=${s.values.includes(o)} onChange=${()=>l(o)} />`)}
<div class="choice-other">
<${Ct} type=${a} name=${e} label=${x.other} checked=${s.other} onChange=${c} />
${s.other?f.html`<input class="field" value=${s.custom} placeholder=${x.otherPlaceholder}
aria-label=${x.otherPlaceholder} onInput=${u} />`:null}
</div>
</fieldset>`}function Ee({input:t,name:e,answer:s,onAnswer:r}){let n=a=>r({...O,other:!0,custom:a.currentTarget.value});return f.html`<div class="freeform">
<label for=${e}>${t.question}</label>
${t.description?f.html`<p class="question-note">${t.description}</p>`:null}
<textarea id=${e} class="field" rows="3" value=${s.custom}
placeholder=${x.freeform} onInput=${n}></textarea>
</div>`}function Oe({isMissed:t,...e}){return f.html`<div class="question"><${e.input.type==="freeform"?Ee:Re} ...${e} />
${t?f.html`<p class="question-missed">${x.noAnswer}</p>`:null}</div>`}function Le({item:t}){return f.html`<div class="card structured is-answered" data-testid="structured-input">
<dl>${t.inputs.map(({id:e,question:s,answer:r})=>f.html`<div key=${e}>
<dt>${s}</dt>
<dd class=${r?.values?.length?"":"is-skipped"}>
${r?.values?.length?r.values.join(", "):x.skipped}</dd>
</div>`)}</dl>
</div>`}function je(t){let e=t.filter(({type:s})=>s!=="freeform");return e.length>0?e:t}function Pe({item:t,conversation:e,phase:s}){let[r,n]=(0,f.useState)({}),[a,l]=(0,f.useState)(!1),c=(0,f.useRef)(null),u=s!=="idle",o=({id:m})=>Mt(r[m]??O).length===0,g=!t.inputs.every(o),b=je(t.inputs).filter(o),I=({id:m})=>`${t.id}-${m}`,v=m=>a&&b.includes(m),H=m=>{if(m.preventDefault(),!g||u)return;if(b.length===0||a)return N(ze(t.inputs,r));l(!0);let D=CSS.escape(I(b[0]));c.current.querySelector(`[name="${D}"], #${D}`).focus()},N=m=>{e.answer(t.id,m),(0,Tt.focusComposer)()},st=()=>N({status:"skipped",answers:{}});return f.html`<form ref=${c} class="card structured" data-testid="structured-input" data-item-id=${t.id} onSubmit=${H}>
<h2>${t.inputs.length>1?x.titleMany:x.title}</h2>
${t.inputs.map(m=>f.html`<${Oe} key=${m.id} input=${m}
name=${I(m)} isMissed=${v(m)} answer=${r[m.id]??O}
onAnswer=${D=>n(we=>({...we,[m.id]:D}))} />`)}
${a&&b.length>0?f.html`<p class="question-missed" role="alert">${x.unanswered(b.length)}</p>`:null}
<div class="card-buttons">
<button type="button" class="button is-quiet" data-testid="structured-skip" disabled=${u}
onClick=${st}>${x.skip}</button>
<button type="submit" class="button is-primary" data-testid="structured-submit"
disabled=${u||!g}>${x.submit}</button>
</div>
</form>`}function zt(t){let e=t.item.status==="pending"&&!t.isPast;return f.html`<${e?Pe:Le} ...${t} />`}var i=d(R(),1);var p=d(R(),1),U=d(E(),1);function At(t,e,s=4){let n=(e-t||1)/s,a=10**Math.floor(Math.log10(n)),l=[1,2,2.5,5,10].map(o=>o*a).find(o=>o>=n),c=Math.floor(t/l),u=Math.ceil(e/l);return Array.from({length:u-c+1},(o,g)=>qe((c+g)*l))}var qe=t=>Number(t.toPrecision(12)),Fe=(t,e)=>Number(t[e])||0;function Rt(t,e){let s=new Map;return e.map(r=>t.map((n,a)=>{let l=Fe(n,r.dataKey);if(r.stack==null)return[0,l];let c=`${r.stack}/${a}/${l<0}`,u=s.get(c)??0;return s.set(c,u+l),[u,u+l]}))}function Et([t,e],s){return r=>s-(r-t)/(e-t||1)*s}function V(t,e="linear"){return t.length===0?"":e?.startsWith("step")?He(t,e):e==null||e.startsWith("linear")||t.length<3?Ot(t):Ne(t)}var L=([t,e])=>`${t.toFixed(1)},${e.toFixed(1)}`;function Ot(t){return`M${t.map(L).join("L")}`}function He(t,e){let s={stepBefore:0,stepAfter:1}[e]??.5,r=t.slice(1).flatMap((n,a)=>{let[l,c]=t[a],u=l+(n[0]-l)*s;return[[u,c],[u,n[1]],n]});return Ot([t[0],...r])}function Ne(t){let e=De(t),s=t.slice(1).map((r,n)=>{let[a,l]=t[n],c=(r[0]-a)/3;return`C${L([a+c,l+e[n]*c])} ${L([r[0]-c,r[1]-e[n+1]*c])} ${L(r)}`});return`M${L(t[0])}${s.join("")}`}function De(t){let e=t.slice(1).map(([s,r],n)=>(r-t[n][1])/(s-t[n][0]));return t.map((s,r)=>{let n=e[r-1]??e[r],a=e[r]??n;return n*a<=0?0:2*n*a/(n+a)})}var Ke={prose:"--text",primary:"--text",emphasis:"--ink",secondary:"--text-secondary",tertiary:"--text-tertiary",success:"--success",warning:"--warning",danger:"--danger"},Ve={surface:"--surface","surface-secondary":"--surface-secondary","surface-tertiary":"--surface-tertiary","surface-elevated":"--surface-elevated","surface-elevated-secondary":"--surface-elevated-secondary"},We={default:"--line",subtle:"--line-subtle",strong:"--line-strong"},Lt={blue:"blue-400",purple:"purple-400",orange:"orange-400",green:"green-400",red:"red-400",yellow:"yellow-400",pink:"pink-400"},_e={gray:250,red:25,orange:55,yellow:90,green:150,blue:255,purple:300,pink:350},Be=/^(gray|red|orange|yellow|green|blue|purple|pink)-(\d{1,4})$/;function Ge(t,e){let s=Math.min(Math.max(e,0),1e3)/1e3,r=.985-.78*s**.9,n=t==="gray"?.006:.21*Math.sin(Math.PI*Math.min(s*.95+.03,1));return`oklch(${r.toFixed(3)} ${n.toFixed(3)} ${_e[t]})`}function rt(t,e){if(Object.hasOwn(e,t))return`var(${e[t]})`;let s=Be.exec(t);return s?Ge(s[1],Number(s[2])):CSS.supports("color",t)?t:void 0}function j(t,e){if(t==null)return;if(typeof t=="string")return rt(t,e);let s=rt(t.light??"",e),r=rt(t.dark??"",e);return s&&r?`light-dark(${s}, ${r})`:s??r}var nt=t=>j(t,Ke),W=t=>j(t,Ve),at=t=>j(t,We),jt=["blue","orange","green","purple","red","yellow","pink"];function _(t,e){let s=typeof t=="string"?Lt[t]??t:t;return j(s,{})??j(Lt[jt[e%jt.length]],{})}function h(t){return`calc(${t} * var(--rem))`}function S(t){if(t==null)return;let e=Number(t);return Number.isFinite(e)&&t!==""?h(e*.25):String(t)}function y(t){return typeof t=="number"?`${t}px`:t??void 0}var Ue=["top","right","bottom","left"];function Ze(t){return t==="top"||t==="bottom"?"y":"x"}function Ye(t){return t[0].toUpperCase()+t.slice(1)}function Ht(t,e,s,r=""){let n=Ue.map(a=>[`${e}${Ye(a)}${r}`,s(t[a]??t[Ze(a)])]);return Object.fromEntries(n.filter(([,a])=>a!==void 0))}function M(t,e){return e==null?{}:typeof e=="object"?Ht(e,t,S):{[t]:S(e)}}function Pt(t){if(t!=null)return typeof t=="number"?`${t}px solid var(--line)`:`${t.size??1}px ${t.style??"solid"} ${at(t.color)??"var(--line)"}`}function lt(t){return t==null?{}:typeof t=="number"||"size"in t?{border:Pt(t)}:Ht(t,"border",Pt)}var Xe={"2xs":"2px",xs:"4px",sm:"6px",md:"8px",lg:"10px",xl:"12px","2xl":"16px","3xl":"20px","4xl":"24px",full:"9999px","100%":"100%",none:"0"},it=t=>Xe[t];function P(t){return{width:y(t.width??t.size),height:y(t.height??t.size),minWidth:y(t.minWidth??t.minSize),minHeight:y(t.minHeight??t.minSize),maxWidth:y(t.maxWidth??t.maxSize),maxHeight:y(t.maxHeight??t.maxSize),aspectRatio:t.aspectRatio,flex:t.flex}}var Nt={start:"flex-start",end:"flex-end"},Je={...Nt,between:"space-between",around:"space-around",evenly:"space-evenly"};function ct(t,e){return{flexDirection:e==="row"?"row":"column",alignItems:Nt[t.align]??t.align,justifyContent:Je[t.justify]??t.justify,flexWrap:t.wrap,gap:S(t.gap),borderRadius:it(t.radius),backgroundColor:W(t.background),...P(t),...M("padding",t.padding),...M("margin",t.margin),...lt(t.border)}}var qt={xs:h(.75),sm:h(.8438),md:h(.9375),lg:h(1.0625),xl:h(1.25)},Qe={sm:h(1),md:h(1.125),lg:h(1.25),xl:h(1.5),"2xl":h(1.75),"3xl":h(2.125),"4xl":h(2.5),"5xl":h(3)},ts={sm:h(.7188),md:h(.7812),lg:h(.8438)},es={normal:400,medium:500,semibold:600,bold:700},ss={Title:Qe,Caption:ts,Text:qt,Label:qt};function C(t){let e=t.truncate?1:t.maxLines;return{color:nt(t.color),fontSize:ss[t.type]?.[t.size],fontWeight:es[t.weight],textAlign:t.textAlign,width:y(t.width),fontStyle:t.italic?"italic":void 0,textDecoration:t.lineThrough?"line-through":void 0,minHeight:t.minLines?`${t.minLines}lh`:void 0,...e?{"--lines":e}:{}}}var rs={"3xs":1.375,"2xs":1.5,xs:1.625,sm:1.875,md:2.125,lg:2.375,xl:2.625,"2xl":2.875,"3xl":3.125};function z(t){let e=rs[t.size];return{...e?{"--control":h(e)}:{},...t.gutterSize?{paddingInline:S(ns[t.gutterSize])}:{}}}var ns={"2xs":1,xs:1.5,sm:2,md:2.5,lg:3,xl:4},Ft={xs:12,sm:14,md:18,lg:20,xl:24,"2xl":30,"3xl":36},B=(t,e="md")=>Ft[t]??Ft[e];var as=220,A={top:10,right:8,bottom:26,left:8},Kt=7.2,ls=t=>t.toLocaleString((0,U.locale)(),{notation:"compact",maximumFractionDigits:2});function Z(t){return typeof t.xAxis=="string"?{dataKey:t.xAxis}:t.xAxis??{}}function is(t){let[e,s]=(0,p.useState)({width:0,height:0});return(0,p.useEffect)(()=>{let r=new ResizeObserver(([n])=>{let{width:a,height:l}=n.contentRect;s({width:a,height:l})});return r.observe(t.current),()=>r.disconnect()},[]),e}function cs(t,{width:e,height:s}){let r=Rt(t.data,t.series),n=r.flat(2),a=At(Math.min(0,...n),Math.max(0,...n)),l=a.map(v=>ls(v)),c=t.showYAxis?Math.max(...l.map(v=>v.length))*Kt+12:A.left,u=Z(t).hide?A.top:A.bottom,o={left:c,top:A.top,width:Math.max(e-c-A.right,1),height:Math.max(s-A.top-u,1)},g=Et([a[0],a.at(-1)],o.height),b=o.width/Math.max(t.data.length,1);return{spans:r,marks:a,labels:l,plot:o,x:v=>b*(v+.5),y:g,band:b,zero:g(0)}}function os(t){let e=new Map;for(let s of t){if(s.type!=="bar")continue;let r=s.stack??s;e.has(r)||e.set(r,e.size)}return{indexOf:s=>e.get(s.stack??s),count:e.size}}function us({node:t,each:e,index:s,layout:r,color:n}){let{spans:a,y:l,band:c}=r,u=os(t.series),o=t.barGap??4,g=Math.min(c-(t.barCategoryGap??c*.3),u.count*56),b=Math.max((g-o*(u.count-1))/u.count,1);return a[s].map(([I,v],H)=>{let N=r.x(H)-g/2+u.indexOf(e)*(b+o),st=Math.min(l(I),l(v)),m=Math.abs(l(I)-l(v));return p.html`<rect key=${H} x=${N} y=${st} width=${b} height=${m}
rx=${Math.min(3,b/2,m/2)} fill=${n} />`})}function ot(t,e,s){return t.map((r,n)=>[e.x(n),e.y(r[s])])}function ut({each:t,index:e,layout:s,color:r}){let n=ot(s.spans[e],s,1);return p.html`<path d=${V(n,t.curveType)} fill="none" stroke=${r}
stroke-width="2" stroke-linejoin="round" stroke-linecap="round" />`}function $s(t){let{each:e,index:s,layout:r,color:n}=t,a=V(ot(r.spans[s],r,1),e.curveType),l=V(ot(r.spans[s],r,0).reverse(),e.curveType);return p.html`<path d=${`${a}${l.replace("M","L")}Z`} fill=${n} opacity="0.2" /><${ut} ...${t} />`}var ps={bar:us,line:ut,area:$s};function fs({node:t,layout:e}){return e.marks.map((s,r)=>p.html`<g key=${s}>
<line x1="0" x2=${e.plot.width} y1=${e.y(s)} y2=${e.y(s)}
class=${s===0?"chart-zero":"chart-grid"} />
${t.showYAxis?p.html`<text x="-8" y=${e.y(s)} dy="0.32em" text-anchor="end">
${e.labels[r]}</text>`:null}</g>`)}function G(t,e){let{dataKey:s,labels:r}=Z(t),n=String(e[s]??"");return r?.[n]??n}function ms({node:t,layout:e}){if(Z(t).hide)return null;let s=Math.max(...t.data.map(n=>G(t,n).length),1),r=Math.max(1,Math.ceil((s*Kt+8)/e.band));return t.data.map((n,a)=>a%r?null:p.html`
<text key=${a} x=${e.x(a)} y=${e.plot.height+18} text-anchor="middle">
${G(t,n)}</text>`)}function hs({node:t}){return t.showLegend?p.html`<ul class="chart-legend" aria-hidden="true">${t.series.map((e,s)=>p.html`
<li key=${e.dataKey}><i style=${{backgroundColor:_(e.color,s)}}></i>
${e.label??e.dataKey}</li>`)}</ul>`:null}function ds({node:t,layout:e,row:s}){if(s===null)return null;let r=e.plot.left+e.x(s),n=r>e.plot.width*.6?"is-left":"";return p.html`<div class=${`chart-tooltip ${n}`} style=${{left:`${r}px`}} aria-hidden="true">
<strong>${G(t,t.data[s])}</strong>
${t.series.map((a,l)=>p.html`<span key=${a.dataKey}>
<i style=${{backgroundColor:_(a.color,l)}}></i>${a.label??a.dataKey}
<b>${t.data[s][a.dataKey]}</b></span>`)}</div>`}function bs({node:t}){return p.html`<table class="visually-hidden"><caption>${U.strings.widget.chart}</caption>
<thead><tr><th scope="col">${Z(t).dataKey}</th>${t.series.map(e=>p.html`
<th key=${e.dataKey} scope="col">${e.label??e.dataKey}</th>`)}</tr></thead>
<tbody>${t.data.map((e,s)=>p.html`<tr key=${s}>
<th scope="row">${G(t,e)}</th>${t.series.map(r=>p.html`
<td key=${r.dataKey}>${e[r.dataKey]}</td>`)}</tr>`)}</tbody></table>`}function gs({node:t,size:e}){let[s,r]=(0,p.useState)(null),n=cs(t,e),{plot:a,band:l}=n,c=o=>{let g=o.clientX-o.currentTarget.getBoundingClientRect().left-a.left,b=Math.floor(g/l);r(b>=0&&b<t.data.length?b:null)},u=t.showTooltip===!1?{}:{onPointerMove:c,onPointerLeave:()=>r(null)};return p.html`<svg width=${e.width} height=${e.height} aria-hidden="true" ...${u}>
<g transform=${`translate(${a.left} ${a.top})`}>
${s===null?null:p.html`<rect class="chart-hover" x=${l*s} y="0" width=${l} height=${a.height} />`}
<${fs} node=${t} layout=${n} />
${t.series.map((o,g)=>p.html`<${ps[o.type]??ut} key=${o.dataKey}
node=${t} each=${o} index=${g} layout=${n} color=${_(o.color,g)} />`)}
<${ms} node=${t} layout=${n} />
</g>
</svg>
<${ds} node=${t} layout=${n} row=${s} />`}function Vt({node:t}){let e=(0,p.useRef)(null),s=is(e),r=P(t),n={...r,height:r.height??(r.aspectRatio?void 0:y(as))};return p.html`<figure class="chart" style=${{flex:r.flex}}>
<div ref=${e} class="chart-plot" style=${n}>
${s.width>0?p.html`<${gs} node=${t} size=${s} />`:null}</div>
<${hs} node=${t} /><${bs} node=${t} />
</figure>`}var me=d(_t(),1),tt=d($t(),1),he=d(Ut(),1),gt=d(Yt(),1),de=d(E(),1);var $=d(R(),1),mt=d($t(),1),Jt=d(E(),1),w=d(pt(),1);var Qt=Jt.strings.widget,ys=new Set(["text","email","number","password","tel","url"]);function Y(t){let e=t.pill?"is-pill":"";return`is-${t.variant??"outline"} ${e} ${t.block?"is-block":""}`}function xs(t){let e=t.style==="primary"||t.submit&&!t.style,s=t.color??(e?"primary":"secondary"),r=t.variant??(e||t.color?"solid":"outline"),n=[t.pill&&"is-pill",t.uniform&&"is-uniform",t.block&&"is-block"];return`is-${r} is-${s} ${n.filter(Boolean).join(" ")}`}function te({node:t}){let{run:e,busy:s}=(0,w.useAction)(t.onClickAction),r=B(t.iconSize,"sm"),n=a=>a?$.html`<${mt.Icon} name=${a} size=${r} />`:null;return $.html`<button type=${t.submit?"submit":"button"} class=${`w-button ${xs(t)}`}
style=${z(t)} disabled=${t.disabled||s}
aria-label=${t.label?null:t.iconStart??t.iconEnd} aria-busy=${String(s)}
onClick=${a=>e(a.currentTarget)}>
${s?$.html`<span class="spinner"></span>`:n(t.iconStart)}
${t.label?$.html`<span>${t.label}</span>`:null}${n(t.iconEnd)}</button>`}function X(t){let[e,s]=(0,$.useState)(t),r=(0,$.useRef)(t);return(0,$.useEffect)(()=>{r.current!==t&&s(t),r.current=t},[t]),[e,s]}function ht(t){let e=(0,$.useRef)(null);return(0,$.useEffect)(()=>{t.autoFocus&&e.current.focus(),t.autoSelect&&e.current.select()},[]),e}function dt(t){return t.autoComplete?{autocomplete:t.autoComplete}:t.allowAutofillExtensions?{}:{autocomplete:"off","data-1p-ignore":"","data-lpignore":"true"}}function ee({node:t}){let e=ht(t),s=(0,w.useFieldId)(t.name),[r,n]=X(t.defaultValue??"");return $.html`<input ref=${e} id=${s} name=${t.name} type=${ys.has(t.inputType)?t.inputType:"text"}
class=${`w-field ${Y(t)}`} style=${z(t)} value=${r}
aria-label=${t.placeholder??t.name} aria-labelledby=${`${s}-label`}
placeholder=${t.placeholder} pattern=${t.pattern} required=${t.required}
disabled=${t.disabled} ...${dt(t)}
onInput=${a=>n(a.currentTarget.value)} />`}function ws(t,e,s){(0,$.useLayoutEffect)(()=>{if(!e.autoResize)return;let{style:r}=t.current;r.height="auto",r.height=`${t.current.scrollHeight+2}px`},[s,e.autoResize])}function se({node:t}){let e=ht(t),s=(0,w.useFieldId)(t.name),[r,n]=X(t.defaultValue??"");ws(e,t,r);let a={...z(t),maxHeight:t.maxRows?`calc(${t.maxRows}lh + var(--rem))`:void 0};return $.html`<textarea ref=${e} id=${s} name=${t.name} rows=${t.rows??3}
class=${`w-field is-area ${Y(t)}`} style=${a} value=${r}
aria-label=${t.placeholder??t.name} aria-labelledby=${`${s}-label`}
placeholder=${t.placeholder} required=${t.required} disabled=${t.disabled}
...${dt(t)} onInput=${l=>n(l.currentTarget.value)}></textarea>`}function re({node:t}){let{editable:e}=t,s=ht(e),[r,n]=X(t.value??"");return $.html`<input ref=${s} class="w-editable" name=${e.name} style=${C(t)} value=${r}
aria-label=${e.placeholder??e.name} placeholder=${e.placeholder}
pattern=${e.pattern} required=${e.required} ...${dt(e)}
onInput=${a=>n(a.currentTarget.value)} />`}function ne({node:t}){let e=(0,w.useFieldId)(t.fieldName);return $.html`<label id=${`${e}-label`} for=${e} class="w-label" style=${C(t)}>${t.value}</label>`}function ae({node:t,value:e,onClear:s}){return!t.clearable||!e||t.disabled?null:$.html`<button type="button" class="icon-button is-small" aria-label=${Qt.clear} onClick=${s}>
<${mt.Icon} name="close" size=${14} /></button>`}function J(t,e){let{run:s,busy:r}=(0,w.useAction)(t.onChangeAction),[n,a]=X(e);return{value:n,change:(c,u)=>{a(u),s(c,{[t.name]:u})},busy:r}}function vs(t){return t.description?`${t.label} — ${t.description}`:t.label}function le({node:t}){let e=(0,w.useFieldId)(t.name),s=(0,$.useRef)(null),{value:r,change:n,busy:a}=J(t,t.defaultValue??"");return $.html`<span class=${`w-clearable ${t.block?"is-block":""}`}>
<select ref=${s} id=${e} name=${t.name} class=${`w-field is-select ${Y(t)} ${r?"":"is-empty"}`}
style=${z(t)} aria-label=${t.placeholder??t.name} aria-labelledby=${`${e}-label`}
disabled=${t.disabled||a} onChange=${l=>n(l.currentTarget,l.currentTarget.value)}>
<option value="" disabled=${!t.clearable} hidden=${!t.clearable} selected=${r===""}>
${t.placeholder??Qt.select}</option>
${(t.options??[]).map(l=>$.html`<option key=${l.value} value=${l.value}
disabled=${l.disabled} selected=${l.value===r}>${vs(l)}</option>`)}
</select>
<${ae} node=${t} value=${r} onClear=${()=>n(s.current,"")} />
</span>`}var ft=t=>t?String(t).slice(0,10):"";function ie({node:t}){let e=(0,w.useFieldId)(t.name),s=(0,$.useRef)(null),{value:r,change:n,busy:a}=J(t,ft(t.defaultValue));return $.html`<span class=${`w-clearable ${t.block?"is-block":""}`}>
<input ref=${s} type="date" id=${e} name=${t.name} class=${`w-field ${Y(t)}`}
style=${z(t)} value=${r} min=${ft(t.min)||void 0} max=${ft(t.max)||void 0}
aria-label=${t.placeholder??t.name} aria-labelledby=${`${e}-label`} title=${t.placeholder}
disabled=${t.disabled||a} onChange=${l=>n(l.currentTarget,l.currentTarget.value)} />
<${ae} node=${t} value=${r} onClear=${()=>n(s.current,"")} />
</span>`}function ce({node:t}){let e=(0,w.useFieldId)(t.name),{value:s,change:r,busy:n}=J(t,t.defaultChecked===!0);return $.html`<label class="w-check">
<input type="checkbox" id=${e} name=${t.name} checked=${s} required=${t.required}
disabled=${t.disabled||n} aria-label=${t.label?null:t.name}
onChange=${a=>r(a.currentTarget,a.currentTarget.checked)} />
${t.label?$.html`<span>${t.label}</span>`:null}</label>`}function oe({node:t}){let e=(0,w.useFieldId)(t.name),{value:s,change:r}=J(t,t.defaultValue??null);return $.html`<div id=${e} role="radiogroup" aria-label=${t.ariaLabel??t.name}
class=${`w-radios is-${t.direction??"row"}`}>
${(t.options??[]).map(n=>$.html`<label key=${n.value} class="w-check">
<input type="radio" name=${t.name} value=${n.value} checked=${n.value===s}
required=${t.required} disabled=${t.disabled||n.disabled}
onChange=${a=>r(a.currentTarget,n.value)} /><span>${n.label}</span>
</label>`)}</div>`}var q=d(pt(),1),F=d($e(),1);var bt=de.strings.widget,ks=5;function T({of:t}){return(0,F.childList)(t).map((e,s)=>typeof e=="string"?e:i.html`<${et} key=${e?.key??e?.id??s} node=${e} />`)}function be({status:t}){if(!t)return null;let e=t.favicon?i.html`<${gt.Picture} url=${t.favicon} look="is-tiny" class=${`w-favicon ${t.frame?"is-framed":""}`} />`:t.icon?i.html`<${tt.Icon} name=${t.icon} size=${15} />`:null;return i.html`<div class="w-status">${e}<span>${t.text}</span></div>`}function pe({config:t,primary:e,form:s}){let{run:r,busy:n}=(0,q.useAction)(t.action),a=e&&s;return i.html`<button type=${a?"submit":"button"} disabled=${n}
class=${`button ${e?"is-primary":""}`} data-testid=${e?"card-confirm":"card-cancel"}
onClick=${a?null:l=>r(l.currentTarget)}>
${n?i.html`<span class="spinner"></span>`:null}${t.label}</button>`}function Ss({node:t}){return!t.confirm&&!t.cancel?null:i.html`<div class="card-buttons w-card-actions">
${t.cancel?i.html`<${pe} config=${t.cancel} />`:null}
${t.confirm?i.html`<${pe} config=${t.confirm} primary form=${t.asForm} />`:null}
</div>`}function Cs({node:t}){let[e,s]=(0,i.useState)(null),{run:r}=(0,q.useAction)(t.confirm?.action),n=e??!t.collapsed,a=c=>{c.preventDefault(),r(c.currentTarget)},l={backgroundColor:W(t.background),...M("padding",t.padding),...lt(t.border)};return i.html`<${t.asForm?"form":"div"} class=${`w-card is-${t.size??"md"} ${n?"":"is-collapsed"}`}
style=${l} data-theme=${t.theme??null} onSubmit=${t.asForm?a:null}>
${t.status||t.collapsed?i.html`<div class="w-card-head"><${be} status=${t.status} />
${t.collapsed?i.html`<${Ts} open=${n} onToggle=${()=>s(!n)} />`:null}</div>`:null}
${n?i.html`<div class="w-card-body"><${T} of=${t} /></div>
<${Ss} node=${t} />`:null}
<//>`}function Ts({open:t,onToggle:e}){let s=t?bt.collapse:bt.expand;return i.html`<button type="button" class="icon-button is-small" aria-label=${s} title=${s}
aria-expanded=${String(t)} onClick=${e}>
<span class=${`turner ${t?"is-open":""}`}><${tt.Icon} name="chevron-right" size=${16} /></span></button>`}function Is(t){return t==="auto"?ks:Number.isInteger(t)&&t>0?t:1/0}function Ms({node:t}){let[e,s]=(0,i.useState)(!1),r=(0,F.childList)(t),n=e?r:r.slice(0,Is(t.limit)),a=r.length-n.length;return i.html`<div class="w-list" data-theme=${t.theme??null}>
${t.status?i.html`<div class="w-card-head"><${be} status=${t.status} /></div>`:null}
<ul><${T} of=${{children:n}} /></ul>
${a?i.html`<button type="button" class="w-list-more" onClick=${()=>s(!0)}>
${bt.more(a)}</button>`:null}
</div>`}function zs({node:t}){let{run:e,busy:s}=(0,q.useAction)(t.onClickAction),r=(0,i.useId)(),n={gap:S(t.gap??2),alignItems:t.align??"center"},a=i.html`<${T} of=${t} />${s?i.html`<span class="spinner"></span>`:null}`;if(!t.onClickAction)return i.html`<li class="w-row" style=${n}>${a}</li>`;let l=c=>{let u=c.target.closest("button, a, input, select, textarea, label");(!u||u.matches(".w-row-button"))&&e(c.currentTarget)};return i.html`<li class="w-row is-action" style=${n} aria-busy=${String(s)} onClick=${l}>
<button type="button" class="w-row-button" aria-labelledby=${r}></button>
<div class="w-row-content" id=${r} style=${n}>${a}</div></li>`}var yt=t=>t.truncate||t.maxLines?"is-clamped":"";function As({node:t}){return t.editable?i.html`<${re} node=${t} />`:i.html`<p class=${`w-text ${yt(t)} ${t.streaming?"is-streaming":""}`}
style=${C(t)}>${t.value}</p>`}function Rs({node:t}){return i.html`<h3 class=${`w-title ${yt(t)}`} style=${C(t)}>${t.value}</h3>`}function Es({node:t}){return i.html`<p class=${`w-caption ${yt(t)}`} style=${C(t)}>${t.value}</p>`}function Os({node:t}){return i.html`<${he.Markdown} text=${t.value??""} streaming=${t.streaming===!0} />`}function Ls({node:t}){let e=`is-${t.color??"secondary"} is-${t.variant??"soft"} is-${t.size??"sm"}`;return i.html`<span class=${`w-badge ${e} ${t.pill?"is-pill":""}`}>${t.label}</span>`}function ge(t){return({node:e})=>i.html`<div class=${`w-box is-${t}`} style=${ct(e,t)}>
<${T} of=${e} /></div>`}var ye=ge("row"),Q=ge("col");function js({node:t}){return i.html`<${t.direction==="row"?ye:Q} node=${t} />`}function Ps({node:t}){let{run:e,busy:s}=(0,q.useAction)(t.onSubmitAction),r=a=>{a.preventDefault(),e(a.currentTarget)},n=t.direction??"col";return i.html`<form class=${`w-box is-${n}`} style=${ct(t,n)}
aria-busy=${String(s)} inert=${s} onSubmit=${r}><${T} of=${t} /></form>`}function qs({node:t}){let e={borderTopColor:at(t.color),borderTopWidth:y(t.size),marginBlock:S(t.spacing)};return i.html`<hr class=${`w-divider ${t.flush?"is-flush":""}`} style=${e} />`}function Fs({node:t}){return i.html`<span class="w-spacer" style=${{minWidth:y(t.minSize),minHeight:y(t.minSize)}}></span>`}function Hs({node:t}){let[e]=(0,F.childList)(t);if(!e)return null;let s=e.key??e.id??e.type;return i.html`<div class="w-transition" key=${s}><${et} node=${e} /></div>`}function Ns({node:t}){return i.html`<span class="w-icon" style=${{color:nt(t.color)}}>
<${tt.Icon} name=${t.name} size=${B(t.size)} /></span>`}function Ds({node:t}){let e={objectFit:t.fit??"cover",objectPosition:t.position,borderRadius:it(t.radius),backgroundColor:W(t.background),...P(t),...M("margin",t.margin)},s=`${t.frame?"is-framed":""} ${t.flush?"is-flush":""}`;return i.html`<${gt.Picture} url=${t.src} alt=${t.alt??""} class=${`w-image ${s}`} look=${`w-image ${s}`}
style=${e} />`}function Ks({node:t}){return i.html`<div class="w-table"><table><tbody><${T} of=${t} /></tbody></table></div>`}function Vs({node:t}){let e=(0,F.childList)(t).map((s,r)=>i.html`
<${xe} key=${s?.key??s?.id??r} node=${s} header=${t.header===!0} />`);return i.html`<tr class=${t.header?"is-header":""}>${e}</tr>`}function xe({node:t,header:e=!1}){let s={textAlign:t.align,verticalAlign:t.vAlign,width:y(t.width),...M("padding",t.padding)},r={colspan:t.colSpan??t.colspan,rowspan:t.rowSpan??t.rowspan};return i.html`<${e?"th":"td"} scope=${e?"col":void 0} style=${s} ...${r}>
${t.value??null}<${T} of=${t} /><//>`}var fe={Card:Cs,ListView:Ms,ListViewItem:zs,Text:As,Title:Rs,Caption:Es,Chart:Vt,Badge:Ls,Box:js,Row:ye,Col:Q,Form:Ps,Divider:qs,Image:Ds,Button:te,Checkbox:ce,Spacer:Fs,Select:le,DatePicker:ie,Input:ee,Label:ne,RadioGroup:oe,Textarea:se,Transition:Hs,Table:Ks,Basic:Q,Icon:Ns,Markdown:Os,"Table.Row":Vs,"Table.Cell":xe},et=(0,me.guarded)(({node:t})=>{if(!t||typeof t!="object")throw new TypeError("not a component");let e=Object.hasOwn(fe,t.type);return i.html`<${e?fe[t.type]:Q} node=${t} />`},"node");return Me(Ws);})();
return chunk;
}
