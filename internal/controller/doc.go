// Package controller runs once a cluster: it writes what the mesh thinks of users' objects into their status.
//
// It reads and translates as an agent does (internal/kube, gateway) and takes st.Statuses as what is wanted. Every
// replica has its tables ready; the one that holds the Lease writes.
//
// Statuses are written by an RFC 7396 merge patch of the status subresource that carries the resourceVersion that it
// was computed from. Server-side apply would not do: status.parents of routes is an atomic list in the API's schema, so
// that to apply our entries would take away those of other controllers. With the resourceVersion a write that did not
// see another's is refused (409) and computed anew, and the status that the watch shows is all that has to be compared.
//
// It also keeps a Service of type LoadBalancer for each Gateway (GEP-1762), by server-side apply, and creates the
// GatewayClass and the XMesh named weft. What nodes report (internal/nodereport) becomes rows, on which statuses depend, and
// Events of the nodes.
//
// Files: controller.go (wiring, election), queue.go (what changed -> what is written), writer.go (statuses), merge.go and
// conditions.go (status -> patch, pure), services.go (Services), infrastructure.go (Gateway -> Service, pure), note.go
// (conditions that follow from writes), reports.go (reports of nodes -> rows), incidents.go (rows -> Events),
// defaults.go (class and mesh).
package controller
