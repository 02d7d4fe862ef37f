package cluster

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/state"
)

// configMapServer answers lists and watches of single ConfigMaps as an API server does.
type configMapServer struct {
	mu      sync.Mutex
	maps    map[string]*corev1.ConfigMap // by key
	version int                          // resourceVersion of the last change
	changed chan struct{}
	asked   []string // field selectors
	closed  bool     // everything is forbidden
}

func (s *configMapServer) put(key, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	namespace, name, _ := strings.Cut(key, "/")
	s.version++
	s.maps[key] = &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, ResourceVersion: strconv.Itoa(s.version), Labels: map[string]string{"a": "b"}},
		Data:       map[string]string{kube.CACertificateKey: text, "other": "x"},
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *configMapServer) get(key string) (m *corev1.ConfigMap, version int, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.maps[key], s.version, s.changed
}

func (s *configMapServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	namespace, name := strings.Split(r.URL.Path, "/")[4], strings.TrimPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
	s.mu.Lock()
	s.asked = append(s.asked, namespace+"/"+name)
	closed := s.closed
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if closed {
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonForbidden, Code: 403})
		return
	}
	m, version, changed := s.get(namespace + "/" + name)
	if r.URL.Query().Get("watch") == "" {
		list := corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMapList"}, ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(version)}}
		if m != nil {
			list.Items = append(list.Items, *m)
		}
		_ = json.NewEncoder(w).Encode(list)
		return
	}
	if r.URL.Query().Get("sendInitialEvents") != "" { // an older server, which lists
		w.WriteHeader(http.StatusUnprocessableEntity)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonInvalid, Code: 422})
		return
	}
	_ = http.NewResponseController(w).Flush()
	// What came between the list and this watch is sent too.
	sent, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	for {
		if m != nil && versionOf(m) > sent {
			raw, _ := json.Marshal(m)
			_ = json.NewEncoder(w).Encode(map[string]any{"type": "MODIFIED", "object": json.RawMessage(raw)})
			_ = http.NewResponseController(w).Flush()
		}
		sent = version
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		}
		m, version, changed = s.get(namespace + "/" + name)
	}
}

func versionOf(m *corev1.ConfigMap) int {
	v, _ := strconv.Atoi(m.ResourceVersion)
	return v
}

// TestConfigMapsThatAreReferredTo are read, and no others.
func TestConfigMapsThatAreReferredTo(t *testing.T) {
	server := &configMapServer{maps: map[string]*corev1.ConfigMap{}, changed: make(chan struct{})}
	for _, k := range []string{"a/x", "a/other", "b/x"} {
		server.put(k, "1")
	}
	https := httptest.NewServer(server)
	defer https.Close()
	defer https.CloseClientConnections()
	objs := kube.NewObjects(state.NewDB())
	c := New(&rest.Config{Host: https.URL}, objs, Options{ConfigMaps: func(s *state.Snapshot) (keys []string) {
		for n := range objs.Namespaces.All(s) { // stands for what refers to ConfigMaps
			keys = append(keys, n.Name+"/x")
		}
		return keys
	}})
	want := func(what string, texts map[string]string) {
		t.Helper()
		got := map[string]string{}
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			clear(got)
			for m := range objs.ConfigMaps.All(objs.DB.Snapshot()) {
				got[kube.Key(m)] = m.Data[kube.CACertificateKey]
				if len(m.Data) > 1 || len(m.Labels) > 0 {
					t.Fatalf("%v holds more than certificates", m)
				}
			}
			if len(got) == len(texts) && !slices.ContainsFunc(keysOf(texts), func(k string) bool { return got[k] != texts[k] }) {
				return
			}
		}
		t.Fatalf("%s: %v, want %v", what, got, texts)
	}
	namespace := func(name string, there bool) {
		w := objs.Write()
		defer w.Commit()
		if !there {
			objs.Namespaces.Delete(w, "/"+name)
			return
		}
		objs.Namespaces.Put(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	m := &configMaps{c: c, follows: map[string]context.CancelFunc{}}
	go func() { done <- m.run(ctx) }()
	namespace("a", true)
	namespace("gone", true)
	for _, s := range c.sources {
		c.markLoaded(s.gk())
	}
	<-c.Loaded()
	want("at the start", map[string]string{"a/x": "1"})
	namespace("b", true)
	want("another", map[string]string{"a/x": "1", "b/x": "1"})
	server.put("a/x", "2")
	server.put("gone/x", "late")
	want("a change, and one that comes", map[string]string{"a/x": "2", "b/x": "1", "gone/x": "late"})
	namespace("b", false)
	want("one that is not referred to any more", map[string]string{"a/x": "2", "gone/x": "late"})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if slices.Contains(server.asked, "a/other") {
		t.Error("a ConfigMap was read that nothing refers to")
	}
}

func keysOf(m map[string]string) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// TestConfigMapsThatMayNotBeRead keep nothing from starting, and are reported.
func TestConfigMapsThatMayNotBeRead(t *testing.T) {
	server := &configMapServer{maps: map[string]*corev1.ConfigMap{}, changed: make(chan struct{}), closed: true}
	https := httptest.NewServer(server)
	defer https.Close()
	defer https.CloseClientConnections()
	objs := kube.NewObjects(state.NewDB())
	c := New(&rest.Config{Host: https.URL}, objs, Options{ConfigMaps: func(*state.Snapshot) []string { return []string{"a/x"} }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	m := &configMaps{c: c, follows: map[string]context.CancelFunc{}}
	go func() { done <- m.run(ctx) }()
	for _, s := range c.sources {
		c.markLoaded(s.gk())
	}
	<-c.Loaded()
	if all := objs.AllProblems(objs.DB.Snapshot()); len(all) != 1 || !strings.Contains(all[0].Reason, "cannot be read") {
		t.Errorf("problems: %v", all)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
