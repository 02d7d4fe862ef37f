package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	restwatch "k8s.io/client-go/rest/watch"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/state"
)

var httpRoute = schema.GroupVersionKind{Group: gwv1.GroupName, Version: "v1", Kind: "HTTPRoute"}

// ofClientGo is the decoder that client-go makes for a watch in JSON.
func ofClientGo(c *clients, body string) apiwatch.Decoder {
	serializers := c.codecs.WithoutConversion()
	info, _ := runtime.SerializerInfoForMediaType(serializers.SupportedMediaTypes(), runtime.ContentTypeJSON)
	frames := info.StreamSerializer.NewFrameReader(io.NopCloser(strings.NewReader(body)))
	return restwatch.NewDecoder(streaming.NewDecoder(frames, info.StreamSerializer.Serializer), serializers.DecoderToVersion(info.Serializer, nil))
}

func testDecoder(c *clients, gvk schema.GroupVersionKind, body string, statuses bool) *eventDecoder {
	return newEventDecoder(io.NopCloser(strings.NewReader(body)), newObjectReader(c.scheme, gvk, gvk.Version, statuses))
}

// TestEventsAreReadAsByClientGo compares objects of all kinds that are watched as JSON, with random values in their fields, as they are
// stored.
func TestEventsAreReadAsByClientGo(t *testing.T) {
	for _, statuses := range []bool{false, true} {
		c := New(&rest.Config{Host: "https://127.0.0.1:1"}, kube.NewObjects(state.NewDB()), Options{Statuses: statuses})
		fill := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(1), c.clients.codecs).NilChance(0.2).NumElements(1, 3)
		kinds := 0
		for _, s := range c.sources {
			if !s.custom() || s.strict() {
				continue
			}
			kinds++
			for range 50 {
				in, err := c.clients.scheme.New(s.kind.GVK)
				noError(t, err)
				fill.Fill(in)
				in.(metav1.Object).SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)}})
				in.GetObjectKind().SetGroupVersionKind(s.kind.GVK)
				text, err := json.Marshal(in)
				noError(t, err)
				event := fmt.Sprintf(`{"type":"MODIFIED","object":%s}`, text)
				_, want, err := ofClientGo(c.clients, event).Decode()
				noError(t, err)
				_, got, err := testDecoder(c.clients, s.kind.GVK, event, statuses).Decode()
				if err != nil {
					t.Fatalf("%s: %v in\n%s", s.kind.GVK.Kind, err, event)
				}
				if r, ok := got.(*gwv1.HTTPRoute); ok && !statuses && len(r.Status.Parents) > 0 {
					t.Fatal("a status was decoded that is dropped")
				}
				if want, got := c.trim(want), c.trim(got); !reflect.DeepEqual(want, got) {
					t.Fatalf("statuses %v: client-go reads\n%+v\nand this\n%+v", statuses, want, got)
				}
			}
		}
		if kinds < 10 {
			t.Errorf("only %d kinds were compared", kinds)
		}
	}
}

// TestOddEvents: what an API server should not send is read, or refused, as by client-go.
func TestOddEvents(t *testing.T) {
	c := newClients(&rest.Config{Host: "https://127.0.0.1:1"})
	const begin = `{"type":"ADDED","object":{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute",`
	for name, text := range map[string]string{
		"unknown fields":        begin + `"metadata":{"name":"r","newer":1},"spec":{},"status":{"newer":{"a":[1]}}},"newer":1}`,
		"names in another case": begin + `"metadata":{"Name":"b","name":"r"}}}`,
		"a name twice":          begin + `"metadata":{"name":"a","name":"r"},"spec":{"hostnames":["a"]},"spec":{"hostnames":["b"]}}}`,
		"null":                  begin + `"metadata":{"name":"r","labels":null,"creationTimestamp":null},"spec":null,"status":null}}`,
		"blanks":                " \n" + begin + ` "metadata" : {"name":` + "\n" + `"r"} } } `,
		"no UTF-8":              begin + `"metadata":{"name":"a` + "\xff" + `"}}}`,
		"a fraction":            begin + `"metadata":{"generation":1.5}}}`,
		"another type":          begin + `"metadata":{"name":1}}}`,
		"an empty name":         begin + `"metadata":{"":1,"name":"r"}}}`,
		"not JSON":              begin + `"metadata":}}`,
		"an unknown type":       `{"type":"MOVED","object":{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute"}}`,
		"no object":             `{"type":"ADDED"}`,
		"no kind":               `{"type":"ADDED","object":{"metadata":{"name":"r"}}}`,
		"a list":                `[]`,
		"an error":              `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"message":"too old"}}`,
		"a bookmark": `{"type":"BOOKMARK","object":{"kind":"HTTPRoute","apiVersion":"gateway.networking.k8s.io/v1",` +
			`"metadata":{"resourceVersion":"7","creationTimestamp":null,"annotations":{"k8s.io/initial-events-end":"true"}},"spec":{},"status":{"parents":null}}}`,
		"the end":       ``,
		"an early end":  begin,
		"end in a word": begin + `"meta`,
	} {
		wantType, want, wantErr := ofClientGo(c, text).Decode()
		gotType, got, err := testDecoder(c, httpRoute, text, true).Decode()
		ends := []error{nil, io.EOF, io.ErrUnexpectedEOF} // the watcher compares these, and does not unwrap
		if slices.Index(ends, wantErr) != slices.Index(ends, err) {
			t.Errorf("%s: error %v, of client-go %v", name, err, wantErr)
			continue
		}
		if wantType != gotType || !reflect.DeepEqual(want, got) {
			t.Errorf("%s: %s %+v, of client-go %s %+v", name, gotType, got, wantType, want)
		}
	}
}

// TestEventOfAnotherKind: what comes in place of the kind that was asked for is not taken for one of it.
func TestEventOfAnotherKind(t *testing.T) {
	c := newClients(&rest.Config{Host: "https://127.0.0.1:1"})
	for _, object := range []string{
		`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"GRPCRoute","metadata":{"name":"r"}}`,
		`{"apiVersion":"gateway.networking.k8s.io/v2","kind":"HTTPRoute","metadata":{"name":"r"}}`,
	} {
		if _, obj, err := testDecoder(c, httpRoute, `{"type":"ADDED","object":`+object+`}`, false).Decode(); err == nil || obj != nil {
			t.Errorf("%s was read as %+v", object, obj)
		}
	}
}

// TestWatchOfRoutes asks a server: events come as they are sent, and a refusal is the API server's.
func TestWatchOfRoutes(t *testing.T) {
	more, refuse := make(chan string), false
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.Path + " " + r.URL.Query().Get("watch"); got != "/apis/gateway.networking.k8s.io/v1/httproutes true" {
			t.Errorf("asked for %s", got)
		}
		if got := r.Header.Get("Accept-Encoding"); got != "" && got != "identity" {
			t.Errorf("accepts %s", got)
		}
		w.Header().Set("Content-Type", "application/json")
		if refuse {
			w.WriteHeader(http.StatusGone)
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}`)
			return
		}
		for {
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case text, ok := <-more:
				if !ok {
					return
				}
				_, _ = io.WriteString(w, text)
			}
		}
	}))
	defer server.Close()
	c := New(&rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, kube.NewObjects(state.NewDB()), Options{})
	s, err := c.source(httpRoute.GroupKind())
	noError(t, err)
	requests, _, err := s.requests(t.Context(), httpRoute)
	noError(t, err)
	watch := func() (apiwatch.Interface, error) {
		return requests.watch(t.Context(), metav1.ListOptions{Watch: true})
	}
	w, err := watch()
	noError(t, err)
	defer w.Stop()
	for _, name := range []string{"a", "b"} {
		more <- `{"type":"ADDED","object":{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"` + name + `"}}}` + "\n"
		if e := <-w.ResultChan(); e.Type != apiwatch.Added || e.Object.(*gwv1.HTTPRoute).Name != name {
			t.Errorf("%s: %+v", name, e)
		}
	}
	close(more)
	if e, open := <-w.ResultChan(); open {
		t.Errorf("after the end there is %+v", e)
	}
	refuse = true
	if _, err := watch(); !apierrors.IsResourceExpired(err) {
		t.Errorf("a refusal is %v", err)
	}
	server.Close()
	if _, err := watch(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("nobody listens: %v", err)
	}
}

// BenchmarkEvent reads the event of a route as an API server sends it, by client-go and by this package.
func BenchmarkEvent(b *testing.B) {
	const parent = `{"group":"","kind":"Service","name":"s","port":80}`
	const condition = `{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"","observedGeneration":1,"reason":"Accepted","status":"True","type":"Accepted"}`
	const event = `{"type":"MODIFIED","object":{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{` +
		`"creationTimestamp":"2026-01-01T00:00:00Z","generation":2,"managedFields":[{"apiVersion":"gateway.networking.k8s.io/v1","fieldsType":"FieldsV1",` +
		`"fieldsV1":{"f:metadata":{"f:annotations":{".":{}}},"f:spec":{".":{},"f:parentRefs":{},"f:rules":{}}},"manager":"kubectl","operation":"Update",` +
		`"time":"2026-01-01T00:00:00Z"}],"name":"r","namespace":"shop","resourceVersion":"7","uid":"00000000-0000-4000-8000-000000000001"},"spec":{` +
		`"parentRefs":[` + parent + `],"rules":[{"backendRefs":[{"group":"","kind":"Service","name":"s","port":80,"weight":1}],` +
		`"matches":[{"path":{"type":"PathPrefix","value":"/"}}]}]},"status":{"parents":[{"conditions":[` + condition + `,` + condition + `],` +
		`"controllerName":"weft.io/controller","parentRef":` + parent + `}]}}}` + "\n"
	c := newClients(&rest.Config{Host: "https://127.0.0.1:1"})
	for name, decoder := range map[string]func(string) apiwatch.Decoder{
		"client-go": func(text string) apiwatch.Decoder { return ofClientGo(c, text) },
		"here":      func(text string) apiwatch.Decoder { return testDecoder(c, httpRoute, text, false) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			d := decoder(strings.Repeat(event, b.N))
			for range b.N {
				if _, _, err := d.Decode(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
