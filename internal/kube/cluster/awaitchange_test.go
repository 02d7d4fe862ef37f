package cluster

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/client-go/rest"
)

// TestAwaitChange: an API server that has forgotten the version of a CRD ends each watch from it at once. A watch that begins with the
// CRD as it is waits until it is another.
func TestAwaitChange(t *testing.T) {
	for _, c := range []struct {
		name, version string
		events        []string // type and resourceVersion; "wait" until the test says so
		fails         bool
	}{
		{"it changes", "7", []string{"ADDED 7", "wait", "MODIFIED 8"}, false},
		{"it has changed", "7", []string{"ADDED 8"}, false},
		{"it goes", "7", []string{"ADDED 7", "wait", "DELETED 9"}, false},
		{"it comes", "", []string{"wait", "ADDED 9"}, false},
		{"an error", "7", []string{"ERROR 0"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			waits, goOn := make(chan struct{}), make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if v := r.URL.Query().Get("resourceVersion"); v != "" {
					t.Errorf("the watch begins at version %s", v)
				}
				w.Header().Set("Content-Type", "application/json")
				for _, e := range c.events {
					if e == "wait" {
						w.(http.Flusher).Flush()
						close(waits)
						<-goOn
						continue
					}
					fmt.Fprintln(w, watchEvent(e))
				}
			}))
			defer server.Close()
			s := &source{c: &Cluster{clients: newClients(&rest.Config{Host: server.URL})}}
			var err error
			done := make(chan error, 1)
			go func() { done <- s.awaitChange(t.Context(), "x.example.com", c.version) }()
			select {
			case <-waits:
				select {
				case err := <-done:
					t.Fatalf("it returned before the change: %v", err)
				default:
				}
				close(goOn)
				err = <-done
			case err = <-done:
			}
			if (err != nil) != c.fails {
				t.Errorf("%v, want an error: %t", err, c.fails)
			}
		})
	}
}

func watchEvent(text string) string {
	var kind, version string
	fmt.Sscan(text, &kind, &version)
	if kind == "ERROR" {
		return `{"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}}`
	}
	return fmt.Sprintf(`{"type": %q, "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "x.example.com", "resourceVersion": %q}}}`, kind, version)
}
