package ca

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

const (
	// signerName is the mesh's among the signers of the cluster.
	signerName = "weft.io/mesh"
	// lookAgain is how often an API server without ClusterTrustBundles is asked whether it has them now.
	lookAgain = 5 * time.Minute
)

// trustBundles keeps the ClusterTrustBundle, where the API server serves that kind.
type trustBundles struct {
	name      string
	namespace string // with which it goes
	discovery discovery.ServerResourcesInterface
	dynamic   dynamic.Interface

	client  dynamic.ResourceInterface // nil where the kind is not served
	version string
	looked  time.Time
}

// bundleName is that of the ClusterTrustBundle: the signer, as the API asks, and the trust domain.
func bundleName(td string) string {
	return strings.ReplaceAll(signerName, "/", ":") + ":" + strings.ReplaceAll(td, "_", "-")
}

func newTrustBundles(cfg *rest.Config, td, namespace string) (*trustBundles, error) {
	found, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return &trustBundles{name: bundleName(td), namespace: namespace, discovery: found, dynamic: client}, nil
}

// look finds out in which version the kind is served, if it is.
func (b *trustBundles) look(now time.Time) error {
	if b.client != nil || !b.looked.IsZero() && now.Before(b.looked.Add(lookAgain)) {
		return nil
	}
	for _, version := range []string{"v1", "v1beta1"} {
		gvr := schema.GroupVersionResource{Group: "certificates.k8s.io", Version: version, Resource: "clustertrustbundles"}
		list, err := b.discovery.ServerResourcesForGroupVersion(gvr.GroupVersion().String())
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		if slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == gvr.Resource }) {
			b.client, b.version = b.dynamic.Resource(gvr), gvr.GroupVersion().String()
			return nil
		}
	}
	b.looked = now
	return nil
}

// publish brings the object to a bundle. It is the namespace's, whose UID is given, so that it goes with it.
func (b *trustBundles) publish(ctx context.Context, bundle, owner string, now time.Time) error {
	if err := b.look(now); err != nil || b.client == nil {
		return err
	}
	o, err := b.client.Get(ctx, b.name, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	switch {
	case missing:
		o = &unstructured.Unstructured{}
		o.SetAPIVersion(b.version)
		o.SetKind("ClusterTrustBundle")
		o.SetName(b.name)
		o.SetLabels(labels())
		if owner != "" {
			o.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "Namespace", Name: b.namespace, UID: types.UID(owner)}})
		}
	case err != nil:
		return err
	}
	if have, _, _ := unstructured.NestedString(o.Object, "spec", "trustBundle"); have == bundle {
		return nil
	}
	o.Object["spec"] = map[string]any{"signerName": signerName, "trustBundle": bundle}
	if missing {
		_, err = b.client.Create(ctx, o, metav1.CreateOptions{FieldManager: fieldManager})
	} else {
		_, err = b.client.Update(ctx, o, metav1.UpdateOptions{FieldManager: fieldManager})
	}
	if err != nil {
		b.client = nil // it may be served in another version now
		return fmt.Errorf("ClusterTrustBundle %s: %w", b.name, err)
	}
	return nil
}
