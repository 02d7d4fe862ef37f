package connectivity

import (
	"fmt"
	"maps"
	"slices"

	"github.com/weft-mesh/weft/internal/load"
)

// judge says what a report has that is not wanted; nil if it is as wanted.
func judge(w Want, r *load.Report) error {
	if r.Requests == 0 {
		return fmt.Errorf("the client sent no request")
	}
	switch {
	case w.Refused:
		if n := r.Requests - r.Statuses[0]; n > 0 {
			return fmt.Errorf("%d of %d requests were answered (%s), and must be refused", n, r.Requests, servers(r))
		}
		return nil
	case w.Status != 0:
		if r.Statuses[w.Status] != r.Requests {
			return fmt.Errorf("answered %v, not all %d%s", r.Statuses, w.Status, failures(r))
		}
		return nil
	case r.Failed > 0:
		return fmt.Errorf("%d of %d requests failed%s", r.Failed, r.Requests, failures(r))
	}
	for _, b := range w.Backends {
		if r.Backends[b] == 0 {
			return fmt.Errorf("%s answered none of %d requests: %s did", b, r.Requests, servers(r))
		}
	}
	for b := range r.Backends {
		if !slices.Contains(w.Backends, b) {
			return fmt.Errorf("%q answered, and %v must", b, w.Backends)
		}
	}
	return nil
}

func servers(r *load.Report) string { return fmt.Sprint(slices.Sorted(maps.Keys(r.Backends))) }

// failures says how requests failed.
func failures(r *load.Report) string {
	var out string
	for _, e := range slices.Sorted(maps.Keys(r.Errors)) {
		out += fmt.Sprintf("; %d: %s", r.Errors[e], e)
	}
	for _, s := range slices.Sorted(maps.Keys(r.Statuses)) {
		if s != 0 && (s < 200 || s > 299) {
			out += fmt.Sprintf("; %d: status %d", r.Statuses[s], s)
		}
	}
	return out
}
