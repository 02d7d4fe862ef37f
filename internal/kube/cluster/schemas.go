package cluster

import (
	"context"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/crds"
)

// FollowSchemas calls told with the schema of each kind of the Gateway API, by its plural name, now and whenever its CRD
// changes, until the context ends. The schema is nil while the kind is not installed. Calls may come at the same time.
func (c *Cluster) FollowSchemas(ctx context.Context, told func(plural string, schema *apiextensionsv1.JSONSchemaProps)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range c.sources {
		if s.gk().Group == gwv1.GroupName {
			wg.Go(func() {
				for ctx.Err() == nil {
					if err := s.nextSchema(ctx, told); err != nil {
						sleep(ctx, schemaRetry)
					}
				}
			})
		}
	}
}

// nextSchema tells of the CRD as it is, and waits until it is another.
func (s *source) nextSchema(ctx context.Context, told func(string, *apiextensionsv1.JSONSchemaProps)) error {
	crd, err := s.crd(ctx)
	switch {
	case apierrors.IsNotFound(err):
		crd = &apiextensionsv1.CustomResourceDefinition{}
	case err != nil:
		return err
	}
	told(kube.Resource(s.kind.GVK), crds.SchemaOf(crd))
	return s.awaitChange(ctx, s.crdName(), crd.ResourceVersion)
}
