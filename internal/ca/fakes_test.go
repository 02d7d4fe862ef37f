package ca

import (
	"context"
	"maps"
	"strconv"
	"sync"
	"testing"

	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	td        = "cluster.local"
	namespace = "weft-system"
)

// shelf is one object as an API server keeps it: who writes must have seen the last version.
type shelf[T metav1.Object] struct {
	mu      sync.Mutex
	version int
	object  T
	there   bool
	copy    func(T) T
	fails   error
	writes  int
	// before is called ahead of every write, without the lock.
	before func()
}

var resource = schema.GroupResource{Resource: "objects"}

func (s *shelf[T]) Get(_ context.Context, name string, _ metav1.GetOptions) (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var none T
	switch {
	case s.fails != nil:
		return none, s.fails
	case !s.there || s.object.GetName() != name:
		return none, apierrors.NewNotFound(resource, name)
	}
	return s.copy(s.object), nil
}

func (s *shelf[T]) Create(_ context.Context, o T, _ metav1.CreateOptions) (T, error) {
	return s.write(o, false)
}

func (s *shelf[T]) Update(_ context.Context, o T, _ metav1.UpdateOptions) (T, error) {
	return s.write(o, true)
}

func (s *shelf[T]) write(o T, update bool) (T, error) {
	if s.before != nil {
		s.before()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var none T
	switch {
	case s.fails != nil:
		return none, s.fails
	case update && !s.there:
		return none, apierrors.NewNotFound(resource, o.GetName())
	case update && s.object.GetResourceVersion() != o.GetResourceVersion():
		return none, apierrors.NewConflict(resource, o.GetName(), nil)
	case !update && s.there:
		return none, apierrors.NewAlreadyExists(resource, o.GetName())
	}
	s.version++
	s.writes++
	s.object, s.there = s.copy(o), true
	s.object.SetResourceVersion(strconv.Itoa(s.version))
	return s.copy(s.object), nil
}

func (s *shelf[T]) delete() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.there = false
}

func (s *shelf[T]) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = err
}

func newSecretShelf() *shelf[*corev1.Secret] {
	return &shelf[*corev1.Secret]{copy: (*corev1.Secret).DeepCopy}
}

func newMapShelf() *shelf[*corev1.ConfigMap] {
	return &shelf[*corev1.ConfigMap]{copy: (*corev1.ConfigMap).DeepCopy}
}

// newSeal is of a ConfigMap of its own.
func newSeal() *seal { return &seal{api: newMapShelf(), namespace: namespace} }

// reviews answers by token.
type reviews map[string]authenticationv1.TokenReviewStatus

func (r reviews) Create(_ context.Context, in *authenticationv1.TokenReview, _ metav1.CreateOptions) (*authenticationv1.TokenReview, error) {
	out := in.DeepCopy()
	out.Status = r[in.Spec.Token]
	if out.Status.Authenticated && len(out.Status.Audiences) == 0 {
		out.Status.Audiences = in.Spec.Audiences
	}
	return out, nil
}

// agentOf is the review of an agent's token.
func agentOf(extra map[string]string) authenticationv1.TokenReviewStatus {
	st := authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{
		Username: "system:serviceaccount:weft-system:weft-agent", Extra: map[string]authenticationv1.ExtraValue{},
	}}
	for k, v := range extra {
		st.User.Extra[k] = authenticationv1.ExtraValue{v}
	}
	return st
}

// fakeCluster is a Cluster: what runs, as node/namespace/account, Gateways as gateway/namespace/name with the only node that
// may serve it or "" for all, nodes of pods as
// pod/namespace/name/uid.
type fakeCluster struct {
	mu  sync.Mutex
	all map[string]string
}

func (p *fakeCluster) set(m map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = maps.Clone(m)
}

func (p *fakeCluster) get(key string) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, ok := p.all[key]
	return v, ok
}

func (p *fakeCluster) Runs(node, ns, sa string) bool {
	_, ok := p.get(node + "/" + ns + "/" + sa)
	return ok
}

func (p *fakeCluster) Gateway(node, ns, name string) bool {
	nodes, ok := p.get("gateway/" + ns + "/" + name)
	return ok && (nodes == "" || nodes == node)
}

func (p *fakeCluster) NodeOf(ns, name, uid string) string {
	v, _ := p.get("pod/" + ns + "/" + name + "/" + uid)
	return v
}

func (p *fakeCluster) NamespaceUID(string) string { return "" }
