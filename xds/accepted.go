package xds

import (
	"context"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// What Envoy answers becomes rows: Accepted for itself, each local workload, Gateway, and service with L7 ports; Rejections for
// each refused resource. Both are gathered under the server's lock and written outside of it, by one goroutine.

// reports is what the next write looks at. It is guarded by the server's lock.
type reports struct {
	// subjects are those whose rows may be out of date. The value is true if what the row says is void: an Envoy that it
	// may speak of has gone, or must accept the same row again.
	subjects   map[model.Subject]bool
	rejections map[string]struct{} // by Rejection.Key
	unwritten  int                 // reports that were taken and are not in the tables yet
	wake       chan struct{}       // has a value when there is something to write
}

func newReports() *reports {
	return &reports{subjects: map[model.Subject]bool{}, rejections: map[string]struct{}{}, wake: make(chan struct{}, 1)}
}

func (r *reports) subject(s model.Subject, void bool) {
	r.subjects[s] = r.subjects[s] || void
	r.ready()
}

func (r *reports) rejection(key string) {
	r.rejections[key] = struct{}{}
	r.ready()
}

func (r *reports) ready() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// report writes rows until ctx ends.
func (s *Server) report(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.cache.reports.wake:
			s.mu.Lock()
			rows, rejections := s.cache.takeReports()
			s.mu.Unlock()
			s.writeReports(rows, rejections)
			s.mu.Lock()
			s.cache.reports.unwritten = 0
			s.mu.Unlock()
		}
	}
}

// writeReports replaces rows. A nil row is deleted.
func (s *Server) writeReports(rows map[model.Subject]*model.Accepted, rejections map[string]*model.Rejection) {
	w := s.st.Write(s.st.Accepted, s.st.Rejections)
	for subject, row := range rows {
		if row == nil {
			s.st.Accepted.Delete(w, subject.Key())
		} else {
			s.st.Accepted.Put(w, row)
		}
	}
	for key, r := range rejections {
		if r == nil {
			s.st.Rejections.Delete(w, key)
			continue
		}
		s.st.Rejections.Put(w, r)
		if r.OverBudget() {
			s.log.Warn("ports of a Service are not sent to Envoy", "objects", r.Objects, "message", r.Message)
			continue
		}
		s.log.Error("Envoy refused a resource; it keeps the last version that it accepted",
			"resource", r.Resource, "objects", r.Objects, "message", r.Message)
	}
	w.Commit()
}

// takeReports computes the rows that are to be written. The rows that it compares with are those of the last write, for
// there is one writer.
func (c *cache) takeReports() (map[model.Subject]*model.Accepted, map[string]*model.Rejection) {
	r, written := c.reports, c.server.st.Snapshot()
	rows := make(map[model.Subject]*model.Accepted, len(r.subjects))
	for subject, void := range r.subjects {
		var before uint64
		if row, ok := c.server.st.Accepted.Get(written, subject.Key()); ok && !void {
			before = row.Revision
		}
		rows[subject] = c.acceptedRow(subject, before)
	}
	rejections := make(map[string]*model.Rejection, len(r.rejections))
	for key := range r.rejections {
		rejections[key] = c.rejected[key]
	}
	r.unwritten = len(rows) + len(rejections)
	clear(r.subjects)
	clear(r.rejections)
	return rows, rejections
}

// acceptedRow says what connected Envoys have accepted of a subject. Its revision is before unless all that the subject
// needs is accepted as it was built from c.snap. There is no row without a subject, and none without an Envoy.
func (c *cache) acceptedRow(subject model.Subject, before uint64) *model.Accepted {
	needs, revision, ok := c.needs(subject)
	if !ok {
		return nil
	}
	row := &model.Accepted{Subject: subject, Revision: before}
	all := true
	for _, n := range needs {
		if c.accepted(n) {
			continue
		}
		all = false
		if r := c.rejected[rejectionKey(n.typeURL, n.name)]; r != nil {
			row.Error = "Envoy refused " + r.Resource + ": " + r.Message
			break
		}
	}
	if all {
		row.Revision = revision
	}
	return row
}

// accepted reports whether some connected Envoy has accepted the cache's version of a resource.
func (c *cache) accepted(r ref) bool {
	for sub := range c.stores[r.typeURL].subs {
		if sub.accepted(r.name) {
			return true
		}
	}
	return false
}

// needs returns the resources that Envoy must have accepted before it serves a subject, and the revision of the
// subject's row. It reports whether there is such a subject, and an Envoy that could serve it.
func (c *cache) needs(subject model.Subject) (needs []ref, revision uint64, ok bool) {
	st, b := c.server.st, c.builder(c.snap)
	listeners, scopes := c.stores[TypeListener], c.stores[TypeScope]
	switch subject.Kind {
	case model.SubjectNode:
		return nil, 0, subject == model.Envoy && len(listeners.subs) > 0
	case model.SubjectWorkload:
		w, revision, ok := st.Workloads.Revision(c.snap, subject.Name)
		if !ok || !w.Local || len(listeners.subs) == 0 {
			return nil, 0, false
		}
		return workloadNeeds(w), revision, true
	case model.SubjectGateway:
		g, revision, ok := st.Gateways.Revision(c.snap, subject.Name)
		if !ok || len(listeners.subs) == 0 {
			return nil, 0, false
		}
		return gatewayNeeds(g), revision, true
	case model.SubjectService:
		s, revision, ok := st.Services.Revision(c.snap, subject.Name)
		if !ok || !toEnvoy(s) || len(scopes.subs) == 0 {
			return nil, 0, false
		}
		b.mode = scopes.mode
		for _, a := range s.Addresses {
			for _, name := range scopeNames(b, a.String()) {
				needs = append(needs, ref{TypeScope, name})
			}
		}
		for _, name := range serviceSNIListeners(b, s) {
			needs = append(needs, ref{TypeListener, name})
		}
		return needs, revision, true
	}
	return nil, 0, false
}

func workloadNeeds(w *model.Workload) []ref {
	var needs []ref
	for _, n := range ListenerNames(w) {
		needs = append(needs, ref{TypeListener, n})
	}
	for _, n := range FilterNames(w) {
		needs = append(needs, ref{TypeFilter, n})
	}
	if w.Identity != "" && len(needs) > 0 {
		needs = append(needs, ref{TypeSecret, serverPrefix + string(w.Identity)}, ref{TypeSecret, SecretRootCA})
	}
	if terminates(w) && len(needs) > 0 {
		needs = append(needs, ref{TypeCluster, workloadName(w, inHTTP)})
	}
	return needs
}

func gatewayNeeds(g *model.Gateway) []ref {
	var needs []ref
	for _, n := range gatewayListenerNames(g) {
		needs = append(needs, ref{TypeListener, n})
	}
	if len(needs) == 0 {
		return nil
	}
	for _, n := range datagramNames(g) {
		needs = append(needs, ref{TypeCluster, n})
	}
	for _, p := range g.Ports {
		for i, l := range p.Listeners {
			if !p.TLS && i > 0 {
				break // the port has one table
			}
			table := l.RouteTable
			if g.Identity == "" {
				table += plainSuffix
			}
			if l.RouteTable != "" && (!p.TLS || len(l.Certificates) > 0) {
				needs = append(needs, ref{TypeRoute, table})
			}
			for _, key := range l.Certificates {
				needs = append(needs, ref{TypeSecret, certPrefix + key})
			}
		}
	}
	return needs
}

// toEnvoy reports whether connections to a port of a service are handed to Envoy.
func toEnvoy(s *model.Service) bool {
	for _, p := range s.Ports {
		if (p.L7 || p.SNI) && p.Protocol == model.TCP {
			return true
		}
	}
	return false
}

// touched marks the subjects that need a resource.
func (c *cache) touched(typeURL, name string) {
	st := c.server.st
	switch typeURL {
	case TypeListener, TypeFilter, TypeCluster:
		if service, ok := sniService(name); ok && typeURL == TypeListener {
			c.reports.subject(model.Subject{Kind: model.SubjectService, Name: service}, false)
		} else if key, _, ok := cutWorkloadName(name); ok {
			c.reports.subject(model.Subject{Kind: model.SubjectWorkload, Name: key}, false)
		} else if n, ok := parseDatagramsName(name); ok && typeURL != TypeFilter {
			c.reports.subject(model.Subject{Kind: model.SubjectGateway, Name: n.key()}, false)
		} else if n, ok := parseGatewayName(name); ok && typeURL == TypeListener {
			c.reports.subject(model.Subject{Kind: model.SubjectGateway, Name: n.key()}, false)
		}
	case TypeRoute:
		if n, ok := parseGatewayName(name); ok {
			c.reports.subject(model.Subject{Kind: model.SubjectGateway, Name: n.key()}, false)
		}
	case TypeScope:
		if at, _, ok := parseScopeKey(name); ok {
			for s := range st.Services.By(c.snap, state.ByAddress, at.Addr().String()) {
				c.reports.subject(model.Subject{Kind: model.SubjectService, Name: s.Key()}, false)
			}
		}
	case TypeSecret:
		switch id, ok := strings.CutPrefix(name, serverPrefix); {
		case name == SecretRootCA:
			c.touchWorkloads(func(w *model.Workload) bool { return w.Identity != "" }, false)
		case ok:
			c.touchWorkloads(func(w *model.Workload) bool { return string(w.Identity) == id }, false)
		case strings.HasPrefix(name, certPrefix):
			c.touchGateways(false)
		}
	}
}

// touchedRow marks what a changed key of the tables is about.
func (c *cache) touchedRow(k state.Key) {
	st := c.server.st
	if key, ok := st.Workloads.Row(k); ok {
		c.reports.subject(model.Subject{Kind: model.SubjectWorkload, Name: key}, false)
	} else if key, ok := st.Gateways.Row(k); ok {
		c.reports.subject(model.Subject{Kind: model.SubjectGateway, Name: key}, false)
	} else if key, ok := st.Services.Row(k); ok {
		c.reports.subject(model.Subject{Kind: model.SubjectService, Name: key}, false)
	} else if key, ok := st.Divisions.Row(k); ok {
		service, _ := sniService(sniPrefix + key)
		c.reports.subject(model.Subject{Kind: model.SubjectService, Name: service}, false)
	} else if k.Table == st.Placements.ID() && k.Index == state.ByNetNS {
		// Another namespace of the same path: Envoy listens in the one that is gone.
		c.touchWorkloads(func(w *model.Workload) bool { return w.NetNS == k.Value }, true)
	}
}

func (c *cache) touchWorkloads(which func(*model.Workload) bool, void bool) {
	for w := range c.server.st.Workloads.By(c.snap, state.ByLocal, "true") {
		if which(w) {
			c.reports.subject(model.Subject{Kind: model.SubjectWorkload, Name: w.Key()}, void)
		}
	}
}

func (c *cache) touchGateways(void bool) {
	for g := range c.server.st.Gateways.All(c.snap) {
		c.reports.subject(model.Subject{Kind: model.SubjectGateway, Name: g.Key()}, void)
	}
}

// touchAll marks every subject. What it says is void if an Envoy went.
func (c *cache) touchAll(void bool) {
	c.touchWorkloads(func(*model.Workload) bool { return true }, void)
	c.touchGateways(void)
	c.touchServices(void)
}

func (c *cache) touchServices(void bool) {
	for s := range c.server.st.Services.All(c.snap) {
		if toEnvoy(s) {
			c.reports.subject(model.Subject{Kind: model.SubjectService, Name: s.Key()}, void)
		}
	}
}
