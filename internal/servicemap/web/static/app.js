// Asks for the map while the page is looked at, and shows it.
"use strict";

(() => {
  const every = 3000; // milliseconds between two questions
  const $ = (id) => document.getElementById(id);
  const state = {token: "", graph: null, chosen: null, timer: 0, asking: false, asked: 0};
  const map = createMap($("map"), choose);
  window.weftMap = map;

  // The token of weft map is behind the #, which browsers send to nobody. It leaves the address at once.
  const given = /^#token=([A-Za-z0-9_.-]+)$/.exec(location.hash);
  if (given) {
    sessionStorage.setItem("weft-token", given[1]);
    history.replaceState(null, "", location.pathname);
  }
  state.token = sessionStorage.getItem("weft-token") || "";

  async function ask(path) {
    const answer = await fetch(path, {headers: {Authorization: "Bearer " + state.token}, credentials: "omit", cache: "no-store"});
    if (!answer.ok) {
      const error = new Error((await answer.text()).trim() || answer.statusText);
      error.status = answer.status;
      throw error;
    }
    return answer.json();
  }

  function status(message, bad) {
    $("status").textContent = message;
    $("status").title = message;
    $("status").className = bad ? "bad" : "";
  }

  // login asks for a token; why says what is wrong with the last one.
  function login(why) {
    clearTimeout(state.timer);
    sessionStorage.removeItem("weft-token");
    state.token = "";
    state.graph = null;
    choose(null);
    $("edges").replaceChildren();
    map.show([], []);
    $("refused").textContent = why;
    $("login").hidden = false;
    $("logout").hidden = true;
    $("token").focus();
  }

  async function refresh() {
    clearTimeout(state.timer);
    if (!state.token || state.asking) return;
    state.asking = true;
    const token = state.token;
    try {
      const graph = await ask("v1/map");
      if (token !== state.token) return;
      state.graph = graph;
      $("login").hidden = true;
      $("logout").hidden = false;
      show();
    } catch (error) {
      if (token !== state.token) return;
      if (error.status === 401 || error.status === 403) return login(error.message);
      status(error.message, true);
    } finally {
      state.asking = false;
    }
    later();
  }

  function later() {
    clearTimeout(state.timer);
    if ($("live").checked && !document.hidden && state.token) state.timer = setTimeout(refresh, every);
  }

  // visible returns what the filters leave.
  function visible() {
    const nodes = new Map(state.graph.nodes.map((n) => [n.id, n]));
    const namespace = $("namespace").value;
    const edges = state.graph.edges.filter((e) =>
      ($("idle").checked || !text.idle(e)) && ($("dns").checked || !text.dnsOnly(e)) &&
      (!namespace || nodes.get(e.from).namespace === namespace || nodes.get(e.to).namespace === namespace));
    const ends = new Set(edges.flatMap((e) => [e.from, e.to]));
    return {nodes, edges, shown: state.graph.nodes.filter((n) => ends.has(n.id))};
  }

  function show() {
    if (!state.graph) return;
    namespaces();
    const {nodes, edges, shown} = visible();
    map.show(shown, edges);
    map.select(state.chosen);
    list(nodes, edges);
    const g = state.graph;
    const notes = [g.window ? "rates of the last " + Math.round(g.window) + " s" : "measuring …"];
    if (g.other) notes.push(g.other.edges + " more edges, " + text.rate(g.other.requests) + " req/s, " + text.rate(g.other.connections) + " conn/s not shown");
    if (g.missing) notes.push("no answer from " + g.missing.join(", "));
    status(notes.join("; "), Boolean(g.missing));
    if (state.chosen) detail();
  }

  function namespaces() {
    const all = [...new Set(state.graph.nodes.map((n) => n.namespace).filter(Boolean))].sort();
    const select = $("namespace");
    if ([...select.options].slice(1).map((o) => o.value).join("\n") === all.join("\n")) return;
    const chosen = select.value;
    while (select.options.length > 1) select.remove(1);
    for (const ns of all) select.add(new Option(ns, ns));
    select.value = all.includes(chosen) ? chosen : "";
  }

  function list(nodes, edges) {
    $("edges").replaceChildren(...edges.map((e) => {
      const row = document.createElement("tr");
      row.tabIndex = 0;
      row.dataset.edge = e.id;
      row.className = e.id === state.chosen ? "chosen" : "";
      row.append(
        text.element("td", text.full(nodes.get(e.from)) + " → " + text.full(nodes.get(e.to))),
        text.element("td", text.idle(e) ? "idle" : text.edge(e).replaceAll("\n", ", "), text.bad(e) ? "bad" : ""),
        text.element("td", text.mtls[e.mtls] || e.mtls));
      row.addEventListener("click", () => choose(e.id));
      row.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(e.id); });
      return row;
    }));
  }

  function choose(id) {
    state.chosen = id;
    map.select(id);
    for (const row of $("edges").rows) row.className = row.dataset.edge === id ? "chosen" : "";
    $("flows").replaceChildren();
    $("flows-note").textContent = "";
    $("detail").hidden = !id;
    if (id) detail();
  }

  async function detail() {
    const e = state.graph && state.graph.edges.find((edge) => edge.id === state.chosen);
    if (!e) return choose(null);
    const from = state.graph.nodes.find((n) => n.id === e.from);
    const to = state.graph.nodes.find((n) => n.id === e.to);
    $("title").textContent = text.full(from) + " → " + text.full(to);
    facts(e);
    const asked = ++state.asked;
    let flows = [];
    try {
      flows = (await ask("v1/map/flows?" + new URLSearchParams({
        fromNamespace: from.namespace || "", fromKind: from.kind || "", fromName: from.name || "",
        toNamespace: to.namespace || "", toKind: to.kind || "", toName: to.name || "",
      }))) || [];
    } catch (error) {
      if (asked === state.asked) $("flows-note").textContent = error.message;
      return;
    }
    if (asked !== state.asked || state.chosen !== e.id) return;
    $("flows-note").textContent = flows.length ? "" : "None are kept. Requests are kept as flows only with agent.requestLog (--request-log).";
    $("flows").replaceChildren(...flows.map(flow));
    decided(e, to, flows);
  }

  function facts(e) {
    const rows = [["Encrypted", text.mtls[e.mtls] || e.mtls]];
    if (e.services) rows.push(["Services", e.services.join(", ")]);
    if (e.requests || e.refusedRequests) {
      rows.push(["Requests", text.rate(e.requests) + " a second"], ["Errors", text.rate(e.errors) + " a second"]);
      rows.push(["Latency", "p50 " + text.time(e.p50) + ", p99 " + text.time(e.p99)]);
    }
    if (e.connections || e.failed) {
      rows.push(["Connections", text.rate(e.connections) + " a second, " + text.rate(e.failed) + " failed"]);
    }
    if (e.exchanges) rows.push(["UDP", text.rate(e.exchanges) + " exchanges a second"]);
    if (e.questions) rows.push(["DNS", text.rate(e.questions) + " questions a second, " + text.rate(e.unanswered) + " without an answer"]);
    if (e.connections || e.failed || e.exchanges) {
      rows.push(["Bytes", text.bytes(e.sent || 0) + " out, " + text.bytes(e.received || 0) + " in a second"]);
    }
    if (text.refused(e)) rows.push(["Refused", text.rate(text.refused(e)) + " a second"]);
    if (text.idle(e)) rows.push(["Traffic", "none in the window"]);
    $("facts").replaceChildren(...rows.flatMap(([key, value]) => [text.element("dt", key), text.element("dd", value)]));
  }

  // decided says which rule or mode decides about an edge.
  function decided(e, to, flows) {
    const lines = new Set();
    const took = new Map();
    for (const f of flows) {
      if (f.route) took.set(text.rule(f.route), (took.get(text.rule(f.route)) || 0) + 1);
      if (f.allowedBy) took.set("allowed: " + text.rule(f.allowedBy), (took.get("allowed: " + text.rule(f.allowedBy)) || 0) + 1);
    }
    for (const [rule, n] of took) lines.add(rule + ", " + n + " of the last " + flows.length + " flows");
    for (const f of flows) {
      if (f.verdict === "refused") lines.add("refused: " + f.reason + (f.policies ? ": " + f.policies.join(", ") : ""));
    }
    for (const [reason, rate] of Object.entries(e.reasons || {})) {
      if (![...lines].some((l) => l.startsWith("refused: " + reason))) lines.add("refused: " + reason + " (" + text.rate(rate) + " a second)");
    }
    if (to.modes) {
      const means = {strict: "only authenticated connections are let in", permissive: "connections in the clear are let in too", disabled: "no identity, all is in the clear"};
      for (const mode of to.modes) lines.add("mode " + mode + " of " + text.full(to) + ": " + (means[mode] || mode));
      if (to.policies) lines.add("policies that select it: " + to.policies.join(", ") + "; one of them must allow it");
      else lines.add("no policy selects it");
    }
    $("decided").replaceChildren(...[...lines].map((l) => text.element("li", l, l.startsWith("refused") ? "bad" : "")));
  }

  function flow(f) {
    const row = document.createElement("tr");
    const what = [];
    if (f.http) what.push(f.http.method + " " + f.http.host + f.http.path + " " + f.http.status + (f.http.backend ? " by " + f.http.backend : ""));
    if (f.route) what.push(f.route);
    if (f.dns) what.push([f.dns.type, f.dns.name, f.dns.code].filter(Boolean).join(" "));
    if (f.open) what.push("opened");
    if (f.duration) what.push(text.time(f.duration / 1e9));
    if (f.reason) what.push(f.reason + (f.policies ? ": " + f.policies.join(", ") : ""));
    const end = (p) => p.workload || p.service || p.address || "unknown";
    row.append(
      text.element("td", new Date(f.time).toLocaleTimeString(), "muted"),
      text.element("td", f.verdict, f.verdict),
      text.element("td", f.layer),
      text.element("td", end(f.source) + " → " + end(f.destination) + (what.length ? ": " + text.clip(what.join(", "), 400) : "")));
    return row;
  }

  $("login").addEventListener("submit", (event) => {
    event.preventDefault();
    state.token = $("token").value.trim();
    $("token").value = "";
    sessionStorage.setItem("weft-token", state.token);
    refresh();
  });
  $("logout").addEventListener("click", () => login(""));
  $("close").addEventListener("click", () => choose(null));
  for (const id of ["namespace", "idle", "dns"]) $(id).addEventListener("change", show);
  $("live").addEventListener("change", refresh);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });

  if (state.token) refresh();
  else login("");
})();
