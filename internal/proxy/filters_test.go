package proxy

import (
	"maps"
	"testing"
)

func TestApplied(t *testing.T) {
	const scope = "extension_config_discovery.http_filter."
	counters := map[string]uint64{
		scope + "ns/a/in.update_success": 2, scope + "ns/a/in.config_reload": 2,
		scope + "ns/b/in.update_success": 2, scope + "ns/b/in.config_reload": 1,
		scope + "ns/c/in.update_success": 0, scope + "ns/c/in.config_reload": 0,
		scope + "ns/d/in.update_success":  1,
		"listener_manager.listener_added": 3, "listener_manager.listener_modified": 2, "server.concurrency": 2,
	}
	want := map[string]bool{"ns/a/in": true, "ns/b/in": false, "ns/c/in": false, "ns/d/in": false}
	for taken, behind := range map[uint64]int64{10: 0, 9: 1, 8: 2, 12: -2} {
		counters["listener_manager.listener_create_success"] = taken
		if got := applied(counters); !maps.Equal(got.Filters, want) || got.Behind != behind {
			t.Errorf("%d taken: %+v, want %d behind", taken, got, behind)
		}
	}
}
