package cluster

import (
	"context"
	"fmt"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/kube"
)

// An API server prunes what it sends on a watch by the CRD as it was when the watch began. An object with a field that
// came with a newer CRD arrives without the field on an older watch, and is not sent again. So the objects of a
// kind are listed again when its CRD has changed, and twice more: each API server learns of the change in its own time.
var relistAfter = []time.Duration{time.Second, 15 * time.Second}

// schemaRetry is the pause after a CRD could not be read.
const schemaRetry = 10 * time.Second

// schemaState is what followSchema keeps between its calls.
type schemaState struct {
	generation int64 // of the CRD when the objects were listed last; 0 if it could not be read
	relists    int   // how often they are to be listed again
}

// followSchema lists and watches a kind that has a CRD until that fails, or until it must be listed again.
func (s *source) followSchema(ctx context.Context) error {
	generation := int64(0)
	if crd, err := s.crdMetadata(ctx); err == nil {
		generation = crd.Generation
	}
	if before := s.schema.generation; before != 0 && before != generation {
		s.schema.relists = len(relistAfter)
	}
	s.schema.generation = generation

	following, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		s.untilStale(following)
	}()
	err := s.follow(following)
	stale := following.Err() != nil
	cancel()
	<-done
	if stale {
		return nil
	}
	return err
}

// untilStale returns when the objects are to be listed again.
func (s *source) untilStale(ctx context.Context) {
	if n := s.schema.relists; n > 0 {
		if sleep(ctx, relistAfter[len(relistAfter)-n]) {
			s.schema.relists--
		}
		return
	}
	for ctx.Err() == nil {
		crd, err := s.crdMetadata(ctx)
		if err == nil && crd.Generation != s.schema.generation {
			return
		}
		if err == nil {
			err = s.awaitChange(ctx, crd.Name, crd.ResourceVersion)
		}
		if err != nil {
			sleep(ctx, schemaRetry)
		}
	}
}

// crdMetadata asks for the metadata of the kind's CRD.
func (s *source) crdMetadata(ctx context.Context) (*metav1.PartialObjectMetadata, error) {
	client, err := s.c.clients.crdMetadata()
	if err != nil {
		return nil, err
	}
	return client.Get(ctx, s.crdName(), metav1.GetOptions{})
}

// crd asks for the kind's CRD.
func (s *source) crd(ctx context.Context) (*apiextensionsv1.CustomResourceDefinition, error) {
	client, err := s.c.clients.of(apiextensionsv1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	name := s.crdName()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := client.Get().Resource("customresourcedefinitions").Name(name).Do(ctx).Into(crd); err != nil {
		return nil, fmt.Errorf("cannot find out whether %s is installed; check access to the API server: %w", name, err)
	}
	return crd, nil
}

func (s *source) crdName() string { return kube.Resource(s.kind.GVK) + "." + s.gk().Group }
