package cluster

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/weft-mesh/weft/internal/kube"
	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/kube/crds"
)

// retryBackoff spaces attempts to reach an API server. Many agents lose it at once, hence the jitter.
var retryBackoff = wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 6, Cap: 10 * time.Second}

// changeSettle is waited for after a CRD has changed: one that comes changes a few times.
const changeSettle = 100 * time.Millisecond

// source follows one kind.
type source struct {
	c    *Cluster
	kind kube.Kind
	// served is the version that is asked for, if it is not the kind's own.
	served atomic.Pointer[string]
	// there tells that the kind was listed and has not gone since.
	there atomic.Bool
	// schema belongs to run.
	schema schemaState
}

func newSource(c *Cluster, k kube.Kind) *source { return &source{c: c, kind: k} }

func (s *source) version() schema.GroupVersionKind {
	if v := s.served.Load(); v != nil {
		return s.kind.GVK.GroupKind().WithVersion(*v)
	}
	return s.kind.GVK
}

func (s *source) gk() schema.GroupKind { return s.kind.GVK.GroupKind() }

// custom reports whether the kind comes with a CRD.
func (s *source) custom() bool { return s.gk().Group != "" && s.gk().Group != "discovery.k8s.io" }

// run lists and watches until the context ends.
func (s *source) run(ctx context.Context) error {
	delay := retryBackoff
	for ctx.Err() == nil {
		began := time.Now()
		follow := s.follow
		if s.custom() {
			follow = s.followSchema
		}
		err := follow(ctx)
		if apierrors.IsNotFound(err) && s.custom() {
			err = s.untilInstalled(ctx)
		}
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			s.c.setProblem(s.gk(), "", err.Error())
		}
		if time.Since(began) > time.Minute {
			delay = retryBackoff
		}
		if !sleep(ctx, delay.Step()) {
			break
		}
	}
	return nil
}

// follow lists and watches until that fails.
func (s *source) follow(ctx context.Context) error {
	gvk := s.version()
	requests, example, err := s.requests(ctx, gvk)
	if err != nil {
		return err
	}
	backoff := retryBackoff
	r := cache.NewReflectorWithOptions(s.listWatch(requests), example, &store{s}, cache.ReflectorOptions{
		Name: gvk.Kind, Backoff: &backoff,
	})
	for ctx.Err() == nil {
		// It ends without an error when the API server no longer knows where we were, and lists anew.
		if err := r.ListAndWatchWithContext(ctx); err != nil {
			return err
		}
		if !sleep(ctx, 100*time.Millisecond) {
			break
		}
	}
	return nil
}

// requests asks for the objects of one kind.
type requests interface {
	list(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch(context.Context, metav1.ListOptions) (apiwatch.Interface, error)
}

// requests returns how a kind is asked for until a context ends, and an example of the objects that come.
func (s *source) requests(ctx context.Context, gvk schema.GroupVersionKind) (requests, runtime.Object, error) {
	if s.strict() {
		r, err := s.c.clients.strict(gvk)
		example := &unstructured.Unstructured{}
		example.SetGroupVersionKind(gvk)
		return r, example, err
	}
	client, err := s.c.clients.of(gvk.GroupVersion())
	if err != nil {
		return nil, nil, err
	}
	example, err := s.c.clients.scheme.New(s.kind.GVK)
	c := typedClient{Interface: client, clients: s.c.clients, gvk: gvk}
	if s.custom() {
		c.reader = newObjectReader(s.c.clients.scheme, s.kind.GVK, gvk.Version, s.c.opts.Statuses)
		unset := &defaults{crd: s.crd, version: gvk.Version}
		c.reader.harmless = func(path string, value any) (bool, error) { return unset.is(ctx, path, value) }
	}
	return c, example, err
}

// typedClient lists and watches Go objects.
type typedClient struct {
	rest.Interface
	clients *clients
	gvk     schema.GroupVersionKind
	// reader reads custom resources, which come as JSON. nil: the objects are of Kubernetes itself and come as protobuf. Fields that
	// their Go types do not have are dropped: the mesh needs none that a later Kubernetes may add.
	reader *objectReader
}

func (c typedClient) request(o *metav1.ListOptions) *rest.Request {
	return c.Get().Resource(kube.Resource(c.gvk)).VersionedParams(o, c.clients.params)
}

func (c typedClient) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if c.reader != nil {
		body, err := c.request(&o).Stream(ctx)
		if err != nil {
			return nil, err
		}
		defer body.Close()
		list, err := c.reader.readList(body)
		if err != nil {
			return nil, fmt.Errorf("list of %s: %w", c.gvk.Kind, err)
		}
		return list, nil
	}
	list, err := c.clients.scheme.New(c.gvk.GroupVersion().WithKind(c.gvk.Kind + "List"))
	if err != nil {
		return nil, err
	}
	return list, c.request(&o).Do(ctx).Into(list)
}

func (c typedClient) watch(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
	if c.reader != nil {
		return c.watchJSON(ctx, o)
	}
	return c.request(&o).Watch(ctx)
}

func (s *source) listWatch(r requests) *cache.ListWatch {
	selector := fieldSelector(s.gk())
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return r.list(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			o.FieldSelector, o.Watch = selector, true
			w, err := r.watch(ctx, o)
			if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) {
				s.c.setProblem(s.gk(), "", fmt.Sprintf("cannot be watched; what was read before is kept: %v", err))
			}
			if err == nil && o.SendInitialEvents == nil {
				s.c.setProblem(s.gk(), "", "")
			}
			return w, err
		},
	}
}

// fieldSelector leaves out at the API server what nobody reads: pods that have ended, Secrets that are no certificates.
func fieldSelector(gk schema.GroupKind) string {
	switch gk {
	case schema.GroupKind{Kind: "Pod"}:
		return "status.phase!=Succeeded,status.phase!=Failed"
	case secret:
		return "type=kubernetes.io/tls"
	}
	return ""
}

// untilInstalled returns when the kind's CRD is there and serves a version that can be read.
func (s *source) untilInstalled(ctx context.Context) error {
	for ctx.Err() == nil {
		version := "" // of a CRD that is not there
		crd, err := s.crd(ctx)
		switch {
		case apierrors.IsNotFound(err):
			s.absent()
		case err != nil:
			return err
		case s.choose(crd):
			return nil
		default:
			version = crd.ResourceVersion
		}
		if err := s.awaitChange(ctx, s.crdName(), version); err != nil {
			return err
		}
	}
	return nil
}

// awaitChange returns when the CRD is not as it was at a resourceVersion, "" is when it was not there, and after half an hour. The
// watch begins with the CRD as it is, and not at that resourceVersion: a CRD seldom changes, so an API server has forgotten its
// version, and would end each watch at once.
func (s *source) awaitChange(ctx context.Context, name, resourceVersion string) error {
	client, err := s.c.clients.crdMetadata()
	if err != nil {
		return err
	}
	seconds := int64(1800)
	o := metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String(), Watch: true, TimeoutSeconds: &seconds,
	}
	w, err := client.Watch(ctx, o)
	if err != nil {
		return fmt.Errorf("wait for a change of %s: %w", name, err)
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, more := <-w.ResultChan():
			if more && e.Type == apiwatch.Error {
				return fmt.Errorf("wait for a change of %s: %w", name, apierrors.FromObject(e.Object))
			}
			if crd, ok := e.Object.(metav1.Object); ok && e.Type == apiwatch.Added && crd.GetResourceVersion() == resourceVersion {
				continue // as it was
			}
			sleep(ctx, changeSettle)
			return nil
		}
	}
}

// absent notes that the kind is not installed.
func (s *source) absent() {
	_ = (&store{s}).Replace(nil, "")
	s.there.Store(false)
	s.c.setProblem(s.gk(), "", "")
}

// versions are those of the kind that can be read: its own, and older ones of the same shape.
func (s *source) versions() []string {
	if s.strict() {
		return []string{s.kind.GVK.Version}
	}
	return crds.Versions(s.kind.GVK.Kind)
}

// choose takes the first of versions that the CRD serves.
func (s *source) choose(crd *apiextensionsv1.CustomResourceDefinition) bool {
	established := false
	for _, c := range crd.Status.Conditions {
		established = established || c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
	}
	if !established {
		return false
	}
	for _, want := range s.versions() {
		for _, v := range crd.Spec.Versions {
			if v.Name == want && v.Served {
				s.served.Store(&want)
				return true
			}
		}
	}
	s.c.setProblem(s.gk(), "", fmt.Sprintf("CRD %s serves no version that is known here; install one with %s", crd.Name, strings.Join(s.versions(), " or ")))
	if s.gk().Group != weftv1.Group {
		// Routes that cannot be read are missing; policies that cannot be read would be open, so they are waited for.
		s.c.markLoaded(s.gk())
	}
	return false
}
