package pods

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// apiServer has Namespaces, Pods, Leases and, if it is told to, empty lists of the kinds of CRDs.
type apiServer struct {
	*httptest.Server
	mu       sync.Mutex
	objects  map[string]map[string]object // by resource and key
	version  int
	custom   atomic.Bool           // there are CRDs
	watchers map[chan event]string // by resource
}

type object map[string]any

type event struct {
	Type   string `json:"type"`
	Object object `json:"object"`
}

func newAPIServer(t testing.TB) *apiServer {
	s := &apiServer{objects: map[string]map[string]object{}, watchers: map[chan event]string{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// kubeconfig writes one that leads here.
func (s *apiServer) kubeconfig(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"c","cluster":{"server":%q}}],`+
		`"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"users":[{"name":"u","user":{}}]}`, s.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// put makes or changes an object; without one it is deleted.
func (s *apiServer) put(resource, key string, o object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	if s.objects[resource] == nil {
		s.objects[resource] = map[string]object{}
	}
	before, had := s.objects[resource][key]
	e := event{Type: "ADDED", Object: o}
	switch {
	case o == nil:
		e = event{Type: "DELETED", Object: before}
		delete(s.objects[resource], key)
	case had:
		e.Type = "MODIFIED"
	}
	if o != nil {
		o["metadata"].(map[string]any)["resourceVersion"] = fmt.Sprint(s.version)
		s.objects[resource][key] = o
	}
	for c, r := range s.watchers {
		if r == resource {
			c <- e
		}
	}
}

// kinds are the kinds that the API server has, by resource, and customKinds those that it has with CRDs.
var (
	kinds = map[string]string{
		"namespaces": "Namespace", "nodes": "Node", "pods": "Pod", "services": "Service", "secrets": "Secret",
		"endpointslices": "EndpointSlice", "leases": "Lease",
	}
	customKinds = map[string]string{
		"gateways": "Gateway", "listenersets": "ListenerSet", "gatewayclasses": "GatewayClass", "httproutes": "HTTPRoute", "grpcroutes": "GRPCRoute",
		"tlsroutes": "TLSRoute", "tcproutes": "TCPRoute", "udproutes": "UDPRoute",
		"referencegrants": "ReferenceGrant", "authorizationpolicies": "AuthorizationPolicy", "addresspools": "AddressPool",
	}
)

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	resource := path[len(path)-1]
	if i := slices.Index(path, "leases"); i >= 0 && (i < len(path)-1 || r.Method == http.MethodPost) {
		s.lease(w, r)
		return
	}
	kind, ok := kinds[resource]
	if custom, isCustom := customKinds[resource]; isCustom && s.custom.Load() {
		kind, ok = custom, true
	}
	switch {
	case !ok:
		refuse(w, http.StatusNotFound, "NotFound")
	case r.URL.Query().Get("sendInitialEvents") != "":
		refuse(w, http.StatusUnprocessableEntity, "Invalid") // the client lists instead
	case r.URL.Query().Get("watch") != "":
		s.watch(w, r, resource)
	default:
		s.list(w, path, resource, kind)
	}
}

// lease answers reads and renewals of one Lease. What the client sends in its body is not read: it is protobuf, and only
// one node renews.
func (s *apiServer) lease(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		s.put("leases", "weft-agent-n1", object{
			"kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
			"metadata": map[string]any{"name": "weft-agent-n1", "namespace": "weft-system"},
			"spec": map[string]any{
				"holderIdentity": "n1", "leaseDurationSeconds": 6, "renewTime": time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"),
			},
		})
	}
	s.mu.Lock()
	o, ok := s.objects["leases"]["weft-agent-n1"]
	s.mu.Unlock()
	if !ok {
		refuse(w, http.StatusNotFound, "NotFound")
		return
	}
	answer(w, http.StatusOK, o)
}

func refuse(w http.ResponseWriter, code int, reason string) {
	answer(w, code, object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code})
}

func answer(w http.ResponseWriter, code int, o object) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(o)
}

func (s *apiServer) list(w http.ResponseWriter, path []string, resource, kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version := "v1"
	if path[0] == "apis" {
		version = path[1] + "/" + path[2]
	}
	items := slices.Collect(maps.Values(s.objects[resource]))
	if items == nil {
		items = []object{}
	}
	answer(w, http.StatusOK, object{
		"kind": kind + "List", "apiVersion": version, "metadata": object{"resourceVersion": fmt.Sprint(s.version)}, "items": items,
	})
}

// watch sends what changes from now on, and what changed since the version that is asked for is as if it did now.
func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, resource string) {
	c := make(chan event, 1000)
	s.mu.Lock()
	for _, o := range s.objects[resource] {
		c <- event{Type: "MODIFIED", Object: o}
	}
	s.watchers[c] = resource
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, c)
		s.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "application/json")
	w.(http.Flusher).Flush()
	enc := json.NewEncoder(w)
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-c:
			if enc.Encode(e) != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	}
}

// namespace makes a Namespace with an mTLS mode.
func (s *apiServer) namespace(name, mode string) {
	s.put("namespaces", name, object{
		"kind": "Namespace", "apiVersion": "v1", "metadata": map[string]any{"name": name, "labels": map[string]any{"weft.io/mtls": mode}},
	})
}
