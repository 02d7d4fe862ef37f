package tunnel

import "github.com/weft-mesh/weft/internal/model"

// What tunnels answer becomes rows: Carried, for each local workload that a tunnel was told of.

// toldWorkload is what a tunnel was told of a workload last.
type toldWorkload struct {
	*Workload
	row uint64 // revision of the model's row that says so
}

// subjectOf is what the row of a workload is about.
func subjectOf(key string) model.Subject {
	return model.Subject{Kind: model.SubjectWorkload, Name: key}
}

// report writes the rows of workloads.
func (s *Server) report(keys ...string) {
	if len(keys) == 0 {
		return
	}
	s.reporting.Lock() // the last one to compute a row is the last one to write it
	defer s.reporting.Unlock()
	w := s.st.Write(s.st.Carried)
	for _, key := range keys {
		subject := subjectOf(key)
		before, _ := s.st.Carried.Get(w.Snapshot(), subject.Key())
		switch row := s.carried(key, before); {
		case row == nil:
			s.st.Carried.Delete(w, subject.Key())
		case before == nil || *row != *before:
			s.st.Carried.Put(w, row)
		}
	}
	w.Commit()
}

// reportConnection writes the row that says whether a tunnel is connected.
func (s *Server) reportConnection() {
	s.reporting.Lock()
	defer s.reporting.Unlock()
	s.mu.Lock()
	connected := len(s.links) > 0
	s.mu.Unlock()
	w := s.st.Write(s.st.Carried)
	if connected {
		s.st.Carried.Put(w, &model.Carried{Subject: model.Tunnel})
	} else {
		s.st.Carried.Delete(w, model.Tunnel.Key())
	}
	w.Commit()
}

// carried computes the row of a workload; nil if no tunnel was told of it. One tunnel is enough: while one takes over from
// another, the one that goes takes nothing new.
func (s *Server) carried(key string, before *model.Carried) *model.Carried {
	s.mu.Lock()
	defer s.mu.Unlock()
	var row *model.Carried
	failure := ""
	for l := range s.links {
		t, ok := l.told[key]
		if !ok {
			continue
		}
		if row == nil {
			row = &model.Carried{Subject: subjectOf(key)}
			if before != nil {
				row.Revision = before.Revision
			}
		}
		switch a := l.answers[key]; {
		case a == nil || a.Revision < t.Revision:
		case a.Error != "":
			failure = a.Error
		default:
			row.Revision = max(row.Revision, t.row)
		}
	}
	if row != nil && (before == nil || row.Revision == before.Revision) {
		row.Error = failure
	}
	return row
}
