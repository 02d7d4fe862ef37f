package tunnel

import "github.com/weft-mesh/weft/internal/model"

// What tunnels answer becomes rows: Carried, for each local workload that was sent to a tunnel.

// sentWorkload is the workload that was sent to a tunnel last.
type sentWorkload struct {
	*Workload
	row uint64 // revision of the row of the model that it was made from
}

// subjectOf is what the row of a workload is about.
func subjectOf(key string) model.Subject {
	return model.Subject{Kind: model.SubjectWorkload, Name: key}
}

// report writes the rows of workloads, and the one that says whether a tunnel is connected (model.Tunnel).
func (s *Server) report(subjects ...model.Subject) {
	if len(subjects) == 0 {
		return
	}
	s.reporting.Lock() // the last one to compute a row is the last one to write it
	defer s.reporting.Unlock()
	w := s.st.Write(s.st.Carried)
	for _, subject := range subjects {
		before, _ := s.st.Carried.Get(w.Snapshot(), subject.Key())
		switch row := s.row(subject, before); {
		case row == nil:
			s.st.Carried.Delete(w, subject.Key())
		case before == nil || *row != *before:
			s.st.Carried.Put(w, row)
		}
	}
	w.Commit()
}

// row computes the row of a subject; nil if there is none.
func (s *Server) row(subject model.Subject, before *model.Carried) *model.Carried {
	s.mu.Lock()
	defer s.mu.Unlock()
	if subject != model.Tunnel {
		return s.carried(subject, before)
	}
	if len(s.links) == 0 {
		return nil
	}
	row := &model.Carried{Subject: subject}
	if l := s.taking(); l != nil {
		row.GatewayPort, row.Process = l.gatewayPort, l.process
	}
	return row
}

// taking returns the tunnel that takes Envoy's connections; nil if there is none. Where one takes over from another, both listen on the
// same port for a while: it is the old one until that says that it is draining, so that no connection which is made for the new one
// gets to the old. One of an earlier version does not say so. The lock is held.
func (s *Server) taking() (best *serverLink) {
	for l := range s.links {
		if l.gatewayPort != 0 && (best == nil || l.before(best)) {
			best = l
		}
	}
	return best
}

// before reports whether l takes Envoy's connections while another does too.
func (l *serverLink) before(other *serverLink) bool {
	switch {
	case l.process == "" && other.process == "":
		return l.began.After(other.began)
	case l.process == "" || other.process == "":
		return l.process != ""
	}
	return l.process < other.process // the older one: of two numbers of one length
}

// carried computes the row of a workload; nil if it was sent to no tunnel. One tunnel is enough: while one takes over from
// another, the old one takes no new connections. The lock is held.
func (s *Server) carried(subject model.Subject, before *model.Carried) *model.Carried {
	var row *model.Carried
	var sent, inForce uint64 // the newest revisions
	failure, taken := "", false
	for l := range s.links {
		t, ok := l.sent[subject.Name]
		if !ok {
			continue
		}
		if row == nil {
			row = &model.Carried{Subject: subject}
			if before != nil {
				row.Revision = before.Revision
			}
		}
		sent = max(sent, t.row)
		switch a := l.answers[subject.Name]; {
		case a == nil || a.Revision < t.Revision:
		case a.Error != "":
			failure, taken = a.Error, a.PortTaken
		default:
			inForce = max(inForce, t.row)
		}
	}
	if row != nil {
		row.Revision = max(row.Revision, inForce)
		if inForce < sent {
			row.Error, row.PortTaken = failure, taken
		}
	}
	return row
}
