// The picture: Cytoscape on a canvas, with namespaces as boxes. Labels on a canvas are text and cannot be HTML.
"use strict";

const style = [
  {selector: "node", style: {
    "label": "data(label)", "font-size": 12, "text-wrap": "wrap", "text-valign": "center", "shape": "round-rectangle",
    "width": "label", "height": 34, "padding": 9, "background-color": "#fff", "border-width": 1.5, "border-color": "#4a5a6a", "color": "#1b2530",
  }},
  {selector: "node[kind='Gateway']", style: {"shape": "round-hexagon", "border-color": "#2b6cb0"}},
  {selector: "node[kind='Service']", style: {"border-style": "dashed"}},
  {selector: "node[?outside]", style: {"shape": "ellipse", "background-color": "#eef1f4", "border-color": "#8a949e"}},
  {selector: "node[?box]", style: {
    "text-valign": "top", "text-halign": "center", "font-weight": "bold", "font-size": 13, "background-color": "#e9eff5", "background-opacity": 0.7,
    "border-color": "#c3ced9", "padding": 18, "text-margin-y": -3,
  }},
  {selector: "edge", style: {
    "label": "data(label)", "font-size": 10.5, "text-wrap": "wrap", "text-background-color": "#fff", "text-background-opacity": 0.85,
    "text-background-padding": 2, "curve-style": "bezier", "control-point-step-size": 60, "target-arrow-shape": "triangle", "arrow-scale": 1.1,
    "width": "data(width)", "line-color": "#8a949e", "target-arrow-color": "#8a949e", "line-style": "dashed", "color": "#333f4a",
  }},
  {selector: "edge[mtls='all']", style: {"line-style": "solid", "line-color": "#1a7f4b", "target-arrow-color": "#1a7f4b"}},
  {selector: "edge[mtls='some']", style: {"line-style": "dotted", "line-color": "#2b6cb0", "target-arrow-color": "#2b6cb0"}},
  {selector: "edge[?bad]", style: {"line-color": "#c62f2f", "target-arrow-color": "#c62f2f", "color": "#a32020"}},
  {selector: "edge[?idle]", style: {"opacity": 0.45}},
  {selector: "edge:selected", style: {"underlay-color": "#2b6cb0", "underlay-opacity": 0.25, "underlay-padding": 6, "opacity": 1}},
];

// createMap draws in an element. choose is called with the ID of an edge that was clicked, or null for none.
function createMap(container, choose) {
  const cy = cytoscape({container, style, wheelSensitivity: 0.3, minZoom: 0.1, maxZoom: 3, boxSelectionEnabled: false});
  cy.on("tap", (event) => {
    if (event.target === cy) choose(null);
    else if (event.target.isEdge()) choose(event.target.id());
  });
  let shape = "";

  function nodeData(n) {
    const kind = n.kind && n.kind !== "Pod" ? "\n" + text.clip(n.kind, 30) : "";
    return {
      id: "n:" + n.id, kind: n.kind || "", outside: !n.name, label: text.clip(text.name(n), 40) + kind,
      ...(n.namespace ? {parent: "b:" + n.namespace} : {}),
    };
  }

  function edgeData(e) {
    return {
      id: e.id, source: "n:" + e.from, target: "n:" + e.to, label: text.edge(e), mtls: e.mtls, bad: text.bad(e), idle: text.idle(e),
      width: Math.min(6, 1.5 + Math.log10(1 + (e.requests || 0) + (e.connections || 0) + (e.exchanges || 0))),
    };
  }

  // show draws nodes and edges. What stays keeps its place, as long as nothing comes or goes.
  function show(nodes, edges) {
    const wanted = new Map();
    for (const n of nodes) {
      if (n.namespace) wanted.set("b:" + n.namespace, {id: "b:" + n.namespace, box: true, label: text.clip(n.namespace, 40)});
    }
    for (const n of nodes) wanted.set("n:" + n.id, nodeData(n));
    for (const e of edges) wanted.set(e.id, edgeData(e));
    cy.batch(() => {
      cy.elements().filter((e) => !wanted.has(e.id())).remove();
      for (const [id, data] of wanted) {
        const now = cy.getElementById(id);
        if (now.empty()) cy.add({group: data.source ? "edges" : "nodes", data});
        else now.data(data);
      }
    });
    const next = [...wanted.keys()].sort().join("\n");
    if (next !== shape) {
      shape = next;
      cy.layout({name: "dagre", rankDir: "LR", nodeSep: 38, rankSep: 150, edgeSep: 20, padding: 30, fit: true}).run();
      if (cy.zoom() > 1.3) {
        cy.zoom(1.3);
        cy.center();
      }
    }
  }

  function select(id) {
    cy.elements().unselect();
    if (id) cy.getElementById(id).select();
  }

  return {cy, show, select};
}
