package ca

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// configMaps is what is used of a client of ConfigMaps.
type configMaps interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (*corev1.ConfigMap, error)
	Create(ctx context.Context, m *corev1.ConfigMap, opts metav1.CreateOptions) (*corev1.ConfigMap, error)
	Update(ctx context.Context, m *corev1.ConfigMap, opts metav1.UpdateOptions) (*corev1.ConfigMap, error)
}

// publishEvery is how soon a bundle that somebody else changed is as it should be.
const publishEvery = 10 * time.Second

// Publish keeps the trust bundle as the roots say, until the context ends. One replica does it, the leader.
func (c *CA) Publish(ctx context.Context) {
	t := time.NewTicker(publishEvery)
	defer t.Stop()
	failed := ""
	for {
		err := c.publish(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			failed = ""
		case err.Error() != failed:
			failed = err.Error()
			c.cfg.Log.Error("the trust bundle cannot be published; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-c.published:
		case <-t.C:
		}
	}
}

func (c *CA) publish(ctx context.Context) error {
	bundle := c.authority.bundle(time.Now())
	if bundle == "" {
		return nil
	}
	err := c.publishMap(ctx, bundle)
	if err != nil {
		err = fmt.Errorf("ConfigMap %s/%s: %w", c.cfg.Namespace, ConfigMapName, err)
	}
	if c.bundles == nil { // in tests
		return err
	}
	return errors.Join(err, c.bundles.publish(ctx, bundle, c.cfg.Cluster.NamespaceUID(c.cfg.Namespace), time.Now()))
}

func (c *CA) publishMap(ctx context.Context, bundle string) error {
	m, err := c.maps.Get(ctx, ConfigMapName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		m = &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: ConfigMapName, Namespace: c.cfg.Namespace, Labels: labels()},
			Data:       map[string]string{BundleKey: bundle},
		}
		_, err = c.maps.Create(ctx, m, metav1.CreateOptions{FieldManager: fieldManager})
		return err
	}
	if err != nil || m.Data[BundleKey] == bundle {
		return err
	}
	m.Data = map[string]string{BundleKey: bundle}
	_, err = c.maps.Update(ctx, m, metav1.UpdateOptions{FieldManager: fieldManager})
	if err == nil {
		c.cfg.Log.Info("the trust bundle is published", "roots", strings.Count(bundle, "BEGIN CERTIFICATE"))
	}
	return err
}
