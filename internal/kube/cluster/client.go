package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
)

// Config returns what a client of the API server needs: from a kubeconfig, or if that is "", from the pod that we run in.
func Config(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		cfg, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("use the service account of this pod: %w; outside of a pod, name a kubeconfig", err)
		}
		return cfg, nil
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
	}
	return cfg, nil
}

// clients holds a REST client for each group and version.
type clients struct {
	cfg    *rest.Config
	scheme *runtime.Scheme
	codecs serializer.CodecFactory
	params runtime.ParameterCodec

	mu       sync.Mutex
	by       map[clientKey]*rest.RESTClient
	metadata metadata.Interface
}

// clientKey names a client. Watches are not limited in their rate, as those of client-go are not.
type clientKey struct {
	gv      schema.GroupVersion
	watches bool
}

func newClients(cfg *rest.Config) *clients {
	s := kube.Scheme()
	if err := errors.Join(apiextensionsv1.AddToScheme(s), eventsv1.AddToScheme(s)); err != nil {
		panic(err) // two types under one name: a mistake in the program
	}
	for _, version := range []string{"v1beta1", "v1alpha3", "v1alpha2"} { // the options of requests: see crds.Versions
		metav1.AddToGroupVersion(s, schema.GroupVersion{Group: gwv1.GroupName, Version: version})
	}
	return &clients{
		cfg: cfg, scheme: s, codecs: serializer.NewCodecFactory(s), params: runtime.NewParameterCodec(s),
		by: map[clientKey]*rest.RESTClient{},
	}
}

func (c *clients) of(gv schema.GroupVersion) (*rest.RESTClient, error) {
	return c.get(clientKey{gv: gv})
}

// watching returns a client for watches that read the body of the response themselves.
func (c *clients) watching(gv schema.GroupVersion) (*rest.RESTClient, error) {
	return c.get(clientKey{gv: gv, watches: true})
}

func (c *clients) get(key clientKey) (*rest.RESTClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.by[key]; r != nil {
		return r, nil
	}
	gv, cfg := key.gv, rest.CopyConfig(c.cfg)
	if key.watches {
		// An API server that is asked to compresses each event of a watch. To unpack them was a fifteenth of what a changed route
		// cost an agent, and the API server packs them once for every node.
		cfg.DisableCompression = true
		cfg.QPS, cfg.RateLimiter = -1, nil
	}
	cfg.GroupVersion = &gv
	cfg.APIPath = "/apis"
	if gv.Group == "" {
		cfg.APIPath = "/api"
	}
	cfg.NegotiatedSerializer = c.codecs.WithoutConversion()
	if gv.Group == "" || gv.Group == "discovery.k8s.io" {
		// Custom resources have no protobuf.
		cfg.ContentType = runtime.ContentTypeProtobuf
		cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "weft"
	}
	r, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", gv, err)
	}
	c.by[key] = r
	return r, nil
}

// crdMetadata returns a client for the metadata of CRDs. A CRD is some 200 KiB, and its metadata 2.
func (c *clients) crdMetadata() (metadata.ResourceInterface, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.metadata == nil {
		m, err := metadata.NewForConfig(c.cfg)
		if err != nil {
			return nil, fmt.Errorf("client of metadata: %w", err)
		}
		c.metadata = m
	}
	return c.metadata.Resource(apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions")), nil
}

// source finds the source of a kind.
func (c *Cluster) source(gk schema.GroupKind) (*source, error) {
	for _, s := range c.sources {
		if s.gk() == gk {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%s: objects of this kind are not read", gk)
}

// client returns a client for a kind, in the version that the API server serves.
func (c *Cluster) client(gk schema.GroupKind) (*rest.RESTClient, *source, error) {
	s, err := c.source(gk)
	if err != nil {
		return nil, nil, err
	}
	client, err := c.clients.of(s.version().GroupVersion())
	return client, s, err
}

// Create makes an object of a kind. The errors are the API server's.
func (c *Cluster) Create(ctx context.Context, gk schema.GroupKind, obj runtime.Object) error {
	client, s, err := c.client(gk)
	if err != nil {
		return err
	}
	o, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	return client.Post().NamespaceIfScoped(o.GetNamespace(), s.kind.Namespaced).Resource(kube.Resource(s.version())).
		VersionedParams(&metav1.CreateOptions{FieldManager: fieldManager}, c.clients.params).Body(obj).Do(ctx).Error()
}

// fieldManager is our name among those who own fields of objects.
const fieldManager = "weft-controller"

// Service asks the API server for a Service; nil if there is none. The errors are the API server's.
func (c *Cluster) Service(ctx context.Context, key string) (*corev1.Service, error) {
	client, err := c.clients.of(corev1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	namespace, name := model.SplitKey(key)
	s := &corev1.Service{}
	err = client.Get().Namespace(namespace).Resource("services").Name(name).Do(ctx).Into(s)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return s, err
}

// Apply makes the fields of an object that its manifest names what they are there, by server-side apply: it takes away
// those that an earlier manifest named and this one does not, and leaves all others. An object that is missing is
// created. Without force a field that another manager wants otherwise makes it fail (409).
func (c *Cluster) Apply(ctx context.Context, gk schema.GroupKind, key string, manifest []byte, force bool) error {
	client, s, err := c.client(gk)
	if err != nil {
		return err
	}
	namespace, name := model.SplitKey(key)
	return client.Patch(types.ApplyYAMLPatchType).NamespaceIfScoped(namespace, s.kind.Namespaced).
		Resource(kube.Resource(s.version())).Name(name).
		VersionedParams(&metav1.PatchOptions{FieldManager: fieldManager, Force: &force}, c.clients.params).
		Body(manifest).Do(ctx).Error()
}

// Delete takes an object away if it is still the one with this UID. The errors are the API server's.
func (c *Cluster) Delete(ctx context.Context, gk schema.GroupKind, key string, uid types.UID) error {
	client, s, err := c.client(gk)
	if err != nil {
		return err
	}
	namespace, name := model.SplitKey(key)
	return client.Delete().NamespaceIfScoped(namespace, s.kind.Namespaced).Resource(kube.Resource(s.version())).Name(name).
		Body(&metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(uid))}).Do(ctx).Error()
}

// CreateEvent makes an event. The errors are the API server's.
func (c *Cluster) CreateEvent(ctx context.Context, event *eventsv1.Event) error {
	client, err := c.clients.of(eventsv1.SchemeGroupVersion)
	if err != nil {
		return err
	}
	return client.Post().Namespace(event.Namespace).Resource("events").
		VersionedParams(&metav1.CreateOptions{FieldManager: fieldManager}, c.clients.params).Body(event).Do(ctx).Error()
}

// PatchEvent applies an RFC 7396 merge patch to an event, and returns it as it is then. The errors are the API server's.
func (c *Cluster) PatchEvent(ctx context.Context, namespace, name string, patch []byte) (*eventsv1.Event, error) {
	client, err := c.clients.of(eventsv1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	out := &eventsv1.Event{}
	err = client.Patch(types.MergePatchType).Namespace(namespace).Resource("events").Name(name).
		VersionedParams(&metav1.PatchOptions{FieldManager: fieldManager}, c.clients.params).Body(patch).Do(ctx).Into(out)
	return out, err
}

// PatchStatus applies an RFC 7396 merge patch to an object's status subresource. The errors are the API server's.
func (c *Cluster) PatchStatus(ctx context.Context, gk schema.GroupKind, key string, patch []byte) error {
	client, s, err := c.client(gk)
	if err != nil {
		return err
	}
	namespace, name := model.SplitKey(key)
	return client.Patch(types.MergePatchType).NamespaceIfScoped(namespace, s.kind.Namespaced).
		Resource(kube.Resource(s.version())).Name(name).SubResource("status").
		VersionedParams(&metav1.PatchOptions{FieldManager: fieldManager}, c.clients.params).Body(patch).Do(ctx).Error()
}
