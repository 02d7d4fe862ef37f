// Package nodereport carries what a node knows about users' objects and about its own processes to the controller: what
// its Envoy refused, and that Envoy or weft tunnel was replaced.
//
// Each agent writes a Lease of its own, weft-report-<node> in weft-system, whose annotation weft.io/report holds a Report
// as JSON. The controller watches these Leases.
//
//   - It is not the Lease by which nodes elect who answers for a Gateway's address: every agent watches that one, and each
//     renewal would carry the report to every node. A report goes to the controllers alone.
//   - It needs no kind of its own. Agents may write Leases, and an admission policy ties a Lease to the agent's node by its
//     name.
//   - A node that has nothing to say writes nothing. One that has writes when that changes, no more often than Times.Pause,
//     and renews the Lease every Times.Renew. A report whose Lease is not renewed counts for nothing.
//
// A node is not trusted: Decode bounds what a report may hold and makes its text one printable line.
//
// Files: report.go (what a report is), incident.go (what happened to processes), compose.go (rows to report), writer.go
// (the Lease).
package nodereport
