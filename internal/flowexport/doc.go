// Package flowexport sends the flows of a node elsewhere as they come: as lines of JSON to standard output or to a file that is
// rotated, and as OTLP logs to an OpenTelemetry collector.
//
//	observe.Store ─ Follow ─► queue ─► batches ─► stdout | file | collector
//
// Each target has an Exporter with a queue of its own. What a target does not take in time is dropped and counted in
// state.Lost; nothing else waits for it: no flow, no other target, and not the end of the agent. What keeps a target from
// taking flows is a row in state.Exports.
package flowexport
