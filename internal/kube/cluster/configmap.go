package cluster

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// FollowConfigMap calls take with the data of one ConfigMap, now and whenever it changes, until the context ends. What is
// not there is waited for, and one that is deleted is not reported: what was taken last stays in force.
func FollowConfigMap(ctx context.Context, cfg *rest.Config, namespace, name string, take func(map[string]string)) error {
	client, err := newClients(cfg).of(corev1.SchemeGroupVersion)
	if err != nil {
		return fmt.Errorf("read ConfigMap %s/%s: %w", namespace, name, err)
	}
	one := cache.NewListWatchFromClient(client, "configmaps", namespace, fields.OneTermEqualSelector("metadata.name", name))
	r := cache.NewReflectorWithOptions(one, &corev1.ConfigMap{}, &configMapStore{take}, cache.ReflectorOptions{Name: name})
	r.RunWithContext(ctx)
	return nil
}

// configMapStore hands on what a reflector finds.
type configMapStore struct{ take func(map[string]string) }

func (s *configMapStore) Add(obj any) error {
	if m, ok := obj.(*corev1.ConfigMap); ok {
		s.take(m.Data)
	}
	return nil
}

func (s *configMapStore) Update(obj any) error { return s.Add(obj) }
func (s *configMapStore) Delete(any) error     { return nil }
func (s *configMapStore) Resync() error        { return nil }

func (s *configMapStore) Replace(objs []any, _ string) error {
	for _, o := range objs {
		if err := s.Add(o); err != nil {
			return err
		}
	}
	return nil
}
