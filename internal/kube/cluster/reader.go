package cluster

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"

	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
)

// objectReader makes the Go objects of a kind of the Gateway API from JSON. Older versions of a kind that are read have its shape
// (crds.Versions), so the objects are of the kind's own Go type.
//
// A CRD may be newer than this program. A field that came with it may say who is let in, so it must not be dropped without a word: the
// object is marked with it (kube.AnnotationUnknownFields), and whoever translates the object closes what the field is in. Metadata and
// status decide about nobody.
type objectReader struct {
	scheme *runtime.Scheme
	kind   schema.GroupVersionKind // of the Go objects
	served string                  // version of what comes
	unread *json.Unmarshalers
	// harmless reports whether a field that is not known has the value that it has where nobody sets it. nil: none has.
	harmless func(path string, value any) (bool, error)
}

var (
	noManagedFields = json.UnmarshalFromFunc(skip[[]metav1.ManagedFieldsEntry])
	// The status types of routes embed RouteStatus, whose fields are decoded as theirs: each is named.
	noRouteStatus = json.JoinUnmarshalers(
		json.UnmarshalFromFunc(skip[gwv1.HTTPRouteStatus]), json.UnmarshalFromFunc(skip[gwv1.GRPCRouteStatus]),
		json.UnmarshalFromFunc(skip[gwv1.TLSRouteStatus]), json.UnmarshalFromFunc(skip[gwv1.TCPRouteStatus]),
		json.UnmarshalFromFunc(skip[gwv1.UDPRouteStatus]),
	)
)

func skip[T any](dec *jsontext.Decoder, _ *T) error { return dec.SkipValue() }

// newObjectReader reads objects of a kind that come in a version. Without statuses it leaves out those of routes.
func newObjectReader(scheme *runtime.Scheme, kind schema.GroupVersionKind, served string, statuses bool) *objectReader {
	unread := noManagedFields
	if !statuses {
		unread = json.JoinUnmarshalers(unread, noRouteStatus)
	}
	return &objectReader{scheme: scheme, kind: kind, served: served, unread: unread}
}

// read makes an object. Its TypeMeta is empty, as the decoder of client-go leaves it.
func (r *objectReader) read(text []byte) (runtime.Object, error) {
	obj, err := r.decode(text, json.RejectUnknownMembers(true))
	var unknown kube.UnknownFields
	if errors.Is(err, json.ErrUnknownName) {
		if obj, err = r.decode(text); err == nil {
			unknown, err = r.unknown(text)
		}
	}
	if err != nil {
		return nil, err
	}
	is, want := obj.GetObjectKind(), r.kind.GroupKind().WithVersion(r.served)
	if got := is.GroupVersionKind(); got != want {
		return nil, fmt.Errorf("there is an object of kind %s in place of %s", got, want)
	}
	is.SetGroupVersionKind(schema.GroupVersionKind{})
	kube.NoteUnknownFields(obj.(metav1.Object), unknown)
	return obj, nil
}

func (r *objectReader) decode(text []byte, opts ...json.Options) (runtime.Object, error) {
	obj, err := r.scheme.New(r.kind)
	if err != nil {
		return nil, err
	}
	return obj, json.Unmarshal(text, obj, append(opts, asKubernetes, json.WithUnmarshalers(r.unread))...)
}

// readList reads a list of objects.
func (r *objectReader) readList(body io.Reader) (runtime.Object, error) {
	list, dec := &metainternal.List{}, jsontext.NewDecoder(body, asKubernetes)
	if err := expect(dec, jsontext.KindBeginObject); err != nil {
		return nil, err
	}
	for dec.PeekKind() == jsontext.KindString {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		switch name.String() {
		case "metadata":
			err = json.UnmarshalDecode(dec, &list.ListMeta)
		case "items":
			list.Items, err = r.readItems(dec)
		default:
			err = dec.SkipValue()
		}
		if err != nil {
			return nil, err
		}
	}
	return list, expect(dec, jsontext.KindEndObject)
}

func (r *objectReader) readItems(dec *jsontext.Decoder) (items []runtime.Object, err error) {
	if err := expect(dec, jsontext.KindBeginArray); err != nil {
		return nil, err
	}
	for dec.PeekKind() == jsontext.KindBeginObject {
		text, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		obj, err := r.read(text)
		if err != nil {
			return nil, err
		}
		items = append(items, obj)
	}
	return items, expect(dec, jsontext.KindEndArray)
}
