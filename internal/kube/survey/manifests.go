package survey

import (
	"context"
	"encoding/json"
	stderrors "errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/state"
)

// maxDocument is the size of a document of Manifests, in bytes; one object may be larger.
const maxDocument = 4 << 20

// Manifests are objects of an API server as those of a folder would be written.
type Manifests struct {
	// Documents are lists of objects, in JSON.
	Documents [][]byte
	// Forbidden is what the user may not read, and so is not there: resources, or objects.
	Forbidden []string
	// Elsewhere are the resources that were read in one namespace alone.
	Elsewhere []string
}

// notAsked are kinds that the mesh has tables of, and that say nothing about what is written: nodes and what is only read where
// something names it.
var notAsked = []string{"Node", "ServiceAccount", "Secret", "ConfigMap", "XMesh"}

// Manifests lists the objects of the kinds that the mesh reads, in all namespaces. What the user may not list there is listed in
// namespace alone, if one is given. Kinds that are not installed have no objects.
func (c *Cluster) Manifests(ctx context.Context, namespace string) (*Manifests, error) {
	out := &Manifests{}
	for _, k := range kube.NewObjects(state.NewDB()).Kinds() {
		if slices.Contains(notAsked, k.GVK.Kind) {
			continue
		}
		items, err := c.ofKind(ctx, k, "")
		if errors.IsForbidden(cause(err)) {
			items, err = c.withFewerRights(ctx, k, namespace, out)
		}
		if err != nil {
			return nil, err
		}
		if k.GVK.Kind == "Pod" {
			items = slices.DeleteFunc(items, ended)
		}
		if err := out.add(k.GVK, items); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Add reads objects of a kind that is read by name alone: "Secret" or "ConfigMap". Keys of objects that are not there are left out.
func (m *Manifests) Add(ctx context.Context, c *Cluster, kind string, keys []string) error {
	gvk := schema.GroupVersionKind{Version: "v1", Kind: kind}
	var items []json.RawMessage
	for _, key := range keys {
		namespace, name, _ := strings.Cut(key, "/")
		o, err := get[json.RawMessage](ctx, c, "/api/v1/namespaces/"+url.PathEscape(namespace)+"/"+kube.Resource(gvk)+"/"+url.PathEscape(name))
		switch {
		case absent(cause(err)):
		case errors.IsForbidden(cause(err)):
			m.Forbidden = append(m.Forbidden, kind+" "+key)
		case err != nil:
			return err
		default:
			items = append(items, o)
		}
	}
	return m.add(gvk, items)
}

// ofKind lists a kind in a namespace, or in all. Versions of a kind of the Gateway API have the same fields, so that an older one that
// is served stands for the newest.
func (c *Cluster) ofKind(ctx context.Context, k kube.Kind, namespace string) ([]json.RawMessage, error) {
	in := ""
	if namespace != "" {
		in = "/namespaces/" + url.PathEscape(namespace)
	}
	if k.GVK.Group == "" {
		return list[json.RawMessage](ctx, c, "/api/v1"+in+"/"+kube.Resource(k.GVK), "", "")
	}
	versions := []string{k.GVK.Version}
	group, err := get[metav1.APIGroup](ctx, c, "/apis/"+k.GVK.Group)
	if err != nil && !absent(cause(err)) {
		return nil, err
	}
	for _, v := range group.Versions {
		if !slices.Contains(versions, v.Version) {
			versions = append(versions, v.Version)
		}
	}
	for _, v := range versions {
		items, err := list[json.RawMessage](ctx, c, "/apis/"+k.GVK.Group+"/"+v+in+"/"+kube.Resource(k.GVK), "", "")
		if err != nil || len(items) > 0 {
			return items, err
		}
	}
	return nil, nil
}

// withFewerRights lists in one namespace a kind that may not be listed in all, and adds to out what it did not read. Of the Namespaces
// it reads only that one.
func (c *Cluster) withFewerRights(ctx context.Context, k kube.Kind, namespace string, out *Manifests) ([]json.RawMessage, error) {
	what := kube.Resource(k.GVK)
	if k.GVK.Group != "" {
		what += "." + k.GVK.Group
	}
	var items []json.RawMessage
	err := error(errors.NewForbidden(schema.GroupResource{}, "", nil))
	switch {
	case namespace == "":
	case k.Namespaced:
		items, err = c.ofKind(ctx, k, namespace)
	case k.GVK.Kind == "Namespace":
		items = make([]json.RawMessage, 1)
		items[0], err = get[json.RawMessage](ctx, c, "/api/v1/namespaces/"+url.PathEscape(namespace))
	}
	switch {
	case err == nil:
		out.Elsewhere = append(out.Elsewhere, what)
	case !errors.IsForbidden(cause(err)):
		return nil, err
	default:
		out.Forbidden, items = append(out.Forbidden, what), nil
		if k.GVK.Kind == "GatewayClass" {
			items = []json.RawMessage{[]byte(defaultClass)}
		}
	}
	return items, nil
}

// defaultClass is the class that the controller makes. It is used if listing classes is forbidden.
const defaultClass = `{"metadata": {"name": "weft"}, "spec": {"controllerName": "weft.io/gateway-controller"}}`

// add writes objects as lists.
func (m *Manifests) add(gvk schema.GroupVersionKind, items []json.RawMessage) error {
	for len(items) > 0 {
		n, size := 0, 0
		for n < len(items) && (n == 0 || size+len(items[n]) <= maxDocument) {
			size += len(items[n])
			n++
		}
		bare := make([]json.RawMessage, n)
		for i, text := range items[:n] {
			var err error
			if bare[i], err = asWritten(gvk, text); err != nil {
				return fmt.Errorf("%s: %w", gvk.Kind, err)
			}
		}
		text, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": bare})
		if err != nil {
			return err
		}
		m.Documents, items = append(m.Documents, text), items[n:]
	}
	return nil
}

// ended reports whether a pod runs no more: its address may be another's.
func ended(pod json.RawMessage) bool {
	var p struct {
		Status struct {
			Phase string `json:"phase"`
		} `json:"status"`
	}
	return json.Unmarshal(pod, &p) == nil && (p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed")
}

// asWritten takes out of an object what an API server adds, and says its kind, which items of a list do not.
func asWritten(gvk schema.GroupVersionKind, text json.RawMessage) (json.RawMessage, error) {
	var o map[string]json.RawMessage
	if err := json.Unmarshal(text, &o); err != nil {
		return nil, err
	}
	var metadata map[string]json.RawMessage
	if err := json.Unmarshal(o["metadata"], &metadata); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	delete(metadata, "managedFields")
	o["metadata"], _ = json.Marshal(metadata) // it was JSON
	o["apiVersion"], _ = json.Marshal(gvk.GroupVersion().String())
	o["kind"], _ = json.Marshal(gvk.Kind)
	return json.Marshal(o)
}

// cause returns the API server's own error, if there is one in err.
func cause(err error) error {
	var status errors.APIStatus
	if stderrors.As(err, &status) {
		return status.(error) // it is one of err's
	}
	return err
}
