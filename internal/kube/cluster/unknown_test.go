package cluster

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/state"
)

// many are n fields.
func many(n int) string {
	var fields []string
	for i := range n {
		fields = append(fields, fmt.Sprintf(`"f%03d":1`, i))
	}
	return strings.Join(fields, ",")
}

// newerObjects are objects with fields that only a newer CRD has, and what is noted of them.
var newerObjects = []struct{ name, kind, rest, unknown string }{
	{"nothing", "HTTPRoute", `"metadata":{"namespace":"ns","name":"o"},"spec":{"hostnames":["a"]}`, ""},
	{"of metadata and status", "HTTPRoute", `"metadata":{"namespace":"ns","name":"o","newer":1},"spec":{},"status":{"newer":1,"parents":[{"newer":1}]}`, ""},
	{"what a user claims", "HTTPRoute", `"metadata":{"namespace":"ns","name":"o","annotations":{"weft.io/unknown-fields":"spec.a"}},"spec":{}`, ""},
	{"of rules", "HTTPRoute", `"metadata":{"namespace":"ns","name":"o","annotations":{"weft.io/unknown-fields":"spec.a"}},"spec":{"rules":[
		{"matches":[{"source":"10.0.0.0/8","path":{"value":"/"}}]},{},{"filters":[{"type":"Quota","quota":{"a":1}}],"when":[]}]}`,
		"spec.rules[0].matches[0].source, spec.rules[2].filters[0].quota, spec.rules[2].when"},
	{"beside the spec", "GRPCRoute", `"metadata":{"namespace":"ns","name":"o"},"spec":{"hostnames":[]},"scope":{}`, "scope"},
	{"null", "TCPRoute", `"metadata":{"namespace":"ns","name":"o"},"spec":{"when":null}`, "spec.when"},
	{"of a listener", "Gateway", `"metadata":{"namespace":"ns","name":"o"},"spec":{"gatewayClassName":"c","listeners":[{"name":"a","port":80,"protocol":"HTTP","when":1}]}`, "spec.listeners[0].when"},
	{"of a grant", "ReferenceGrant", `"metadata":{"namespace":"ns","name":"o"},"spec":{"from":[{"group":"","kind":"a","namespace":"b","name":"c"}]}`, "spec.from[0].name"},
	{"of a policy", "BackendTLSPolicy", `"metadata":{"namespace":"ns","name":"o"},"spec":{"validation":{"hostname":"a","pins":[]}}`, "spec.validation.pins"},
	{"of session persistence", "HTTPRoute", `"metadata":{"namespace":"ns","name":"o"},"spec":{"rules":[{"sessionPersistence":{"type":"Cookie","cookieConfig":{"lifetimeType":"Session"}}}]}`, ""},
	{"what nobody set", "HTTPRoute", `"metadata":{"namespace":"ns","name":"o"},"spec":{"fallback":"Open","rules":[{"limits":{"rate":10}},{}]}`, ""},
	{"what somebody set", "HTTPRoute", `"metadata":{"namespace":"ns","name":"o"},"spec":{"fallback":"Closed","rules":[{"limits":{"rate":10}},{"limits":{"rate":11}},{"limits":{}}]}`,
		"spec.fallback, spec.rules[1].limits, spec.rules[2].limits"},
	{"too many", "TCPRoute", `"metadata":{"namespace":"ns","name":"o"},"spec":{` + many(20) + `}`,
		"spec.f000, spec.f001, spec.f002, spec.f003, spec.f004, spec.f005, spec.f006, spec.f007, more fields"},
	{"beside many of its status", "TCPRoute", `"metadata":{"namespace":"ns","name":"o"},"status":{` + many(200) + `},"spec":{"when":1}`, "spec.when"},
	{"hidden by many", "TCPRoute", `"metadata":{"namespace":"ns","name":"o",` + many(200) + `},"spec":{"when":1}`, "more fields"},
	{"long", "UDPRoute", `"metadata":{"namespace":"ns","name":"o"},"spec":{"` + strings.Repeat("a", 500) + `":1}`, "spec." + strings.Repeat("a", 195) + "…"},
}

// newerCRD gives some fields a value where nobody does.
const newerCRD = `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"c"},"spec":{"versions":[{"name":"v1beta1"},{"name":"v1","served":true,
	"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{
		"fallback":{"type":"string","default":"Open"},"when":{"type":"string"},
		"rules":{"type":"array","items":{"type":"object","properties":{"limits":{"type":"object","default":{},"properties":{"rate":{"type":"integer","default":10}}}}}}}}}}}}]}}`

// TestUnknownFieldsAreNoted: a field that came with a newer CRD is not dropped without a word, whether the object comes by a watch or by
// a list.
func TestUnknownFieldsAreNoted(t *testing.T) {
	for _, test := range newerObjects {
		object := fmt.Sprintf(`{"apiVersion":"gateway.networking.k8s.io/v1","kind":%q,%s}`, test.kind, test.rest)
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if strings.HasPrefix(r.URL.Path, "/apis/apiextensions.k8s.io/") {
				_, _ = io.WriteString(w, newerCRD)
				return
			}
			if r.URL.Query().Get("watch") != "" {
				fmt.Fprintf(w, `{"type":"ADDED","object":%s}`, object)
				return
			}
			fmt.Fprintf(w, `{"kind":"%sList","apiVersion":"gateway.networking.k8s.io/v1","metadata":{"resourceVersion":"7","newer":1},"items":[%s]}`, test.kind, object)
		}))
		c := New(&rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, kube.NewObjects(state.NewDB()), Options{})
		i := slices.IndexFunc(c.sources, func(s *source) bool { return s.kind.GVK.Kind == test.kind })
		r, _, err := c.sources[i].requests(t.Context(), c.sources[i].version())
		noError(t, err)
		list, err := r.list(t.Context(), metav1.ListOptions{})
		noError(t, err)
		if at, _ := meta.ListAccessor(list); at.GetResourceVersion() != "7" {
			t.Errorf("%s: the list is of version %q", test.name, at.GetResourceVersion())
		}
		listed, err := meta.ExtractList(list)
		noError(t, err)
		w, err := r.watch(t.Context(), metav1.ListOptions{Watch: true})
		noError(t, err)
		e := <-w.ResultChan()
		w.Stop()
		server.Close()
		if len(listed) != 1 || !reflect.DeepEqual(listed[0], e.Object) {
			t.Errorf("%s: listed %+v, watched %+v", test.name, listed, e.Object)
		}
		o, ok := e.Object.(metav1.Object)
		if !ok || o.GetName() != "o" || kube.UnknownFieldsOf(o).String() != test.unknown {
			t.Errorf("%s: read %+v, want %q", test.name, e.Object, test.unknown)
		}
		s := &store{c.sources[i]}
		trimmed, err := s.Transformer()(listed[0])
		noError(t, err)
		noError(t, s.Replace([]any{trimmed}, "7"))
		if o, ok := s.kind.Get(c.objs.DB.Snapshot(), "ns/o"); !ok || kube.UnknownFieldsOf(o).String() != test.unknown {
			t.Errorf("%s: in the table is %+v", test.name, o)
		}
		problems := c.objs.AllProblems(c.objs.DB.Snapshot())
		if grant := test.kind == "ReferenceGrant"; len(problems) > 0 != grant || grant && !strings.Contains(problems[0].Reason, test.unknown) {
			t.Errorf("%s: problems %v", test.name, problems)
		}
	}
}

// TestBadLists: a list that is cut off, or has other objects, is an error.
func TestBadLists(t *testing.T) {
	c := newClients(&rest.Config{Host: "https://127.0.0.1:1"})
	const route = `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"r"}}`
	for text, want := range map[string]int{
		`{"items":[]}`: 0, `{"items":[` + route + `]}`: 1, `{"items":[` + route + `,` + route + `],"more":{}}`: 2,
		``: -1, `[]`: -1, `{"items":[` + route: -1, `{"items":[` + route + `]`: -1, `{"items":[1]}`: -1, `{"items":{}}`: -1,
		`{"items":[{"apiVersion":"gateway.networking.k8s.io/v1","kind":"GRPCRoute","metadata":{"name":"r"}}]}`: -1,
		`{"items":[{"metadata":{"name":"r"}}]}`: -1,
	} {
		list, err := newObjectReader(c.scheme, httpRoute, "v1", false).readList(strings.NewReader(text))
		if (err != nil) != (want < 0) {
			t.Errorf("%s: error %v", text, err)
			continue
		}
		if err == nil && meta.LenList(list) != want {
			t.Errorf("%s: %d objects", text, meta.LenList(list))
		}
	}
}

// TestOlderVersions: an object of an older version of the same shape is read as one of the kind's own.
func TestOlderVersions(t *testing.T) {
	c := newClients(&rest.Config{Host: "https://127.0.0.1:1"})
	gvk := httpRoute.GroupVersion().WithKind("TLSRoute")
	const event = `{"type":"ADDED","object":{"apiVersion":"gateway.networking.k8s.io/v1alpha2","kind":"TLSRoute","metadata":{"name":"r"},"spec":{"hostnames":["a"]}}}`
	_, obj, err := newEventDecoder(io.NopCloser(strings.NewReader(event)), newObjectReader(c.scheme, gvk, "v1alpha2", false)).Decode()
	if r, ok := obj.(*gwv1.TLSRoute); err != nil || !ok || r.Spec.Hostnames[0] != "a" || kube.UnknownFieldsOf(r) != nil {
		t.Errorf("%+v, %v", obj, err)
	}
}

// TestUnreadableCRD: an object with a field that is not known is not read until it can be told whether somebody set it.
func TestUnreadableCRD(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasPrefix(r.URL.Path, "/apis/apiextensions.k8s.io/") {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`)
			return
		}
		_, _ = io.WriteString(w, `{"items":[{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"r"},"spec":{"when":1}}]}`)
	}))
	defer server.Close()
	c := New(&rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, kube.NewObjects(state.NewDB()), Options{})
	s, err := c.source(httpRoute.GroupKind())
	noError(t, err)
	r, _, err := s.requests(t.Context(), httpRoute)
	noError(t, err)
	if list, err := r.list(t.Context(), metav1.ListOptions{}); err == nil || !strings.Contains(err.Error(), "cannot find out") {
		t.Errorf("%v, %v", list, err)
	}
}
