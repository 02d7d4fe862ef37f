package controller

import (
	"context"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/kube/crds"
	"github.com/weft-mesh/weft/internal/state"
)

// kindSchema is the schema of a kind of the Gateway API as it is installed.
type kindSchema struct {
	plural string
	props  *apiextensionsv1.JSONSchemaProps // nil if the kind is not installed
}

func newSchemas(db *state.DB) *state.Table[*kindSchema] {
	return state.NewTable(db, "controller-schemas", func(s *kindSchema) string { return s.plural })
}

// keepSchemas keeps a row for each kind until the context ends.
func (c *Controller) keepSchemas(ctx context.Context) {
	c.cluster.FollowSchemas(ctx, func(plural string, props *apiextensionsv1.JSONSchemaProps) {
		txn := c.st.Write(c.schemas)
		c.schemas.Put(txn, &kindSchema{plural, props})
		txn.Commit()
	})
}

// supported returns the features of Gateways and of the mesh that the installed CRDs have the fields for; nil until each kind
// was looked at.
func supported(schemas *state.Table[*kindSchema], s *state.Snapshot) (gateways, mesh []string) {
	complete := true
	has := func(plural, path string) bool {
		row, ok := schemas.Get(s, plural)
		complete = complete && ok
		return ok && crds.HasField(row.props, path)
	}
	gateways, mesh = gateway.Known(gateway.ClassFeatures(), has), gateway.Known(gateway.MeshFeatures(), has)
	if !complete {
		return nil, nil
	}
	return gateways, mesh
}
