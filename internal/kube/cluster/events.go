package cluster

import (
	"context"
	stdjson "encoding/json"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	"github.com/weft-mesh/weft/internal/kube"
)

// eventDecoder reads the events of a watch from an API server: metav1.WatchEvent as JSON, one after the other.
//
// The decoder of client-go goes through each event four times: for its end, for the object, for the object's kind, and to decode
// the object. That was the largest part of what a changed route costs an agent. This one goes through it twice, for the object's end
// and to decode it, and does not decode what trim drops: who owns which field, and for a node the status of routes.
type eventDecoder struct {
	body   io.Closer
	dec    *jsontext.Decoder
	reader *objectReader
}

var _ apiwatch.Decoder = (*eventDecoder)(nil)

// asKubernetes are the rules of the decoder of client-go: those of encoding/json, and names have their case. Errors are those of
// encoding/json/v2, which tell the end of a connection from bad JSON.
var asKubernetes = json.JoinOptions(
	stdjson.DefaultOptionsV1(), json.MatchCaseInsensitiveNames(false), stdjson.ReportErrorsWithLegacySemantics(false),
)

// newEventDecoder reads body, which it closes in the end.
func newEventDecoder(body io.ReadCloser, reader *objectReader) *eventDecoder {
	return &eventDecoder{body: body, dec: jsontext.NewDecoder(body, asKubernetes), reader: reader}
}

// Close ends the watch.
func (d *eventDecoder) Close() { _ = d.body.Close() }

// Decode waits for the next event. The error is io.EOF when the API server has ended the watch.
func (d *eventDecoder) Decode() (apiwatch.EventType, runtime.Object, error) {
	kind, obj, err := d.event()
	if err != nil {
		if cause := connectionError(err); cause != nil {
			return "", nil, cause
		}
		return "", nil, fmt.Errorf("%s: %w", d.reader.kind.Kind, err)
	}
	return kind, obj, nil
}

// connectionError returns the error of the connection that err comes from, as the readers of the watch compare it; nil if it comes
// from none.
func connectionError(err error) error {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, end) {
			return end
		}
	}
	for ; err != nil; err = errors.Unwrap(err) {
		if utilnet.IsProbableEOF(err) || utilnet.IsTimeout(err) {
			return err
		}
	}
	return nil
}

// event reads an event, whose type must come before its object.
func (d *eventDecoder) event() (kind apiwatch.EventType, obj runtime.Object, err error) {
	if err := expect(d.dec, jsontext.KindBeginObject); err != nil {
		return "", nil, err
	}
	for d.dec.PeekKind() == jsontext.KindString {
		name, err := d.dec.ReadToken()
		if err != nil {
			return "", nil, err
		}
		switch name.String() {
		case "type":
			err = json.UnmarshalDecode(d.dec, &kind)
		case "object":
			obj, err = d.object(kind)
		default:
			err = d.dec.SkipValue()
		}
		if err != nil {
			return "", nil, err
		}
	}
	if err := expect(d.dec, jsontext.KindEndObject); err != nil {
		return "", nil, err
	}
	if obj == nil {
		return "", nil, fmt.Errorf("an event of type %q has no object", kind)
	}
	return kind, obj, nil
}

// expect reads a token.
func expect(dec *jsontext.Decoder, kind jsontext.Kind) error {
	t, err := dec.ReadToken()
	if err == nil && t.Kind() != kind {
		return fmt.Errorf("there is %v where %v must be", t.Kind(), kind)
	}
	return err
}

// object reads the object of an event.
func (d *eventDecoder) object(kind apiwatch.EventType) (runtime.Object, error) {
	switch kind {
	case apiwatch.Error:
		status := &metav1.Status{}
		if err := json.UnmarshalDecode(d.dec, status); err != nil {
			return nil, err
		}
		if status.Kind != "Status" {
			return nil, fmt.Errorf("an error has an object of kind %s in place of Status", status.GroupVersionKind())
		}
		status.TypeMeta = metav1.TypeMeta{}
		return status, nil
	case apiwatch.Added, apiwatch.Modified, apiwatch.Deleted, apiwatch.Bookmark:
		text, err := d.dec.ReadValue()
		if err != nil {
			return nil, err
		}
		return d.reader.read(text)
	}
	return nil, fmt.Errorf("an event is of type %q", kind)
}

// watchJSON watches objects that come as JSON.
func (c typedClient) watchJSON(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
	client, err := c.clients.watching(c.gvk.GroupVersion())
	if err != nil {
		return nil, err
	}
	body, err := client.Get().Resource(kube.Resource(c.gvk)).VersionedParams(&o, c.clients.params).Stream(ctx)
	switch {
	case err != nil && (utilnet.IsProbableEOF(err) || utilnet.IsTimeout(err)):
		return apiwatch.NewEmptyWatch(), nil // as client-go does: the reflector asks again
	case err != nil:
		return nil, err
	}
	report := apierrors.NewClientErrorReporter(http.StatusInternalServerError, http.MethodGet, "ClientWatchDecoding")
	return apiwatch.NewStreamWatcher(newEventDecoder(body, c.reader), report), nil
}
