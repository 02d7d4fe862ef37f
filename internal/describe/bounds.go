package describe

import "github.com/weft-mesh/weft/internal/model"

// Limit leaves the first rows of each part, and counts those beyond in More. What it cuts is not changed for others who have it.
func (d *Description) Limit(rows int) {
	more := cut(&d.Rules, rows) + cut(&d.Problems, rows)
	if d.Status != nil {
		s := *d.Status
		more += cut(&s.Parents, rows) + cut(&s.Listeners, rows)
		d.Status = &s
	}
	if p := d.Pod; p != nil {
		more += cut(&p.Services, rows)
		if p.Policy != nil {
			w, policy := *p.Workload, *p.Policy
			more += cut(&policy.Rules, rows)
			w.Policy = &policy
			p.Workload = &w
		}
	}
	if s := d.Service; s != nil {
		more += cut(&s.Routes, rows) + cutStreams(&s.Streams, rows)
		for i := range s.Ports {
			more += cut(&s.Ports[i].Endpoints, rows)
		}
	}
	if g := d.Gateway; g != nil {
		more += cut(&g.Certificates, rows) + cutStreams(&g.Streams, rows)
		row := *g.Gateway
		row.Ports = append([]model.GatewayPort(nil), row.Ports...)
		for i := range row.Ports {
			more += cut(&row.Ports[i].Listeners, rows)
		}
		g.Gateway = &row
	}
	if r := d.Route; r != nil {
		more += cut(&r.Backends, rows) + cutStreams(&r.Streams, rows)
	}
	d.More += more
}

func cutStreams(list *[]Stream, rows int) int {
	more := cut(list, rows)
	for i := range *list {
		more += cut(&(*list)[i].Backends, rows)
	}
	return more
}

// cut leaves the first n of a list, and returns how many there were beyond.
func cut[T any](list *[]T, n int) int {
	beyond := max(len(*list)-n, 0)
	*list = (*list)[:len(*list)-beyond]
	return beyond
}
