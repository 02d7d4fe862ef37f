// What is shown as text. Names, paths, hosts and reasons come from traffic and from objects of tenants: they are put into
// the page by textContent alone, never as HTML.
"use strict";

const text = {
  rate(v) {
    if (!v) return "0";
    if (v < 0.01) return "<0.01";
    return v < 10 ? String(+v.toFixed(2)) : v < 100 ? String(+v.toFixed(1)) : String(Math.round(v));
  },

  time(seconds) {
    if (seconds === undefined || seconds === null) return "–";
    if (seconds < 0.001) return Math.round(seconds * 1e6) + " µs";
    if (seconds < 1) return +(seconds * 1e3).toPrecision(3) + " ms";
    return +seconds.toPrecision(3) + " s";
  },

  bytes(v) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let i = 0;
    for (; v >= 1024 && i < units.length - 1; i++) v /= 1024;
    return text.rate(v) + " " + units[i];
  },

  clip(s, most) { return s.length > most ? s.slice(0, most - 1) + "…" : s; },

  // A node beside its namespace.
  name(n) {
    if (n.name) return n.name;
    return n.namespace ? "unknown" : "outside of the mesh";
  },

  full(n) { return (n.namespace ? n.namespace + "/" : "") + text.name(n); },

  // A rule of a route or of a policy, which is KIND/NAMESPACE/NAME/NUMBER, perhaps with the rule's name behind it; a TLSRoute has no number.
  rule(r) {
    const [kind, namespace, name, number, ...named] = r.split("/");
    const of = kind + " " + namespace + "/" + name;
    if (number === undefined) return of;
    return "rule " + number + (named.length ? " (" + named.join("/") + ")" : "") + " of " + of;
  },

  refused(e) { return (e.refused || 0) + (e.refusedRequests || 0); },

  bad(e) { return text.refused(e) + (e.errors || 0) + (e.failed || 0) + (e.unanswered || 0) > 0; },

  idle(e) { return !e.requests && !e.connections && !e.exchanges && !e.questions && !text.bad(e); },

  // Nothing was counted but questions to DNS that were answered.
  dnsOnly(e) { return Boolean(e.questions) && !e.requests && !e.connections && !e.exchanges && !text.bad(e); },

  // The label of an edge.
  edge(e) {
    const out = [];
    if (e.requests) out.push(text.rate(e.requests) + " req/s");
    else if (e.connections) out.push(text.rate(e.connections) + " conn/s");
    if (e.exchanges) out.push(text.rate(e.exchanges) + " UDP/s");
    if (e.questions) out.push(text.rate(e.questions) + " DNS/s");
    if (e.p99 !== undefined) out.push("p99 " + text.time(e.p99));
    if (e.errors) out.push(text.rate(100 * e.errors / e.requests) + " % errors");
    if (e.failed) out.push(text.rate(e.failed) + " failed/s");
    if (e.unanswered) out.push(text.rate(e.unanswered) + " unanswered/s");
    if (text.refused(e)) out.push(text.rate(text.refused(e)) + " refused/s");
    return out.join("\n");
  },

  mtls: {all: "mTLS", some: "mTLS, and in the clear", none: "in the clear"},

  // An element with text in it.
  element(tag, content, name) {
    const e = document.createElement(tag);
    e.textContent = content;
    if (name) e.className = name;
    return e;
  },
};
