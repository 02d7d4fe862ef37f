package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
)

// defaults knows the values that an API server gives to fields which nobody sets. A newer CRD may give one to each object, old ones too:
// such a field says what is so without it, by the rules of the Gateway API for new fields, and closes nothing.
type defaults struct {
	crd     func(context.Context) (*apiextensionsv1.CustomResourceDefinition, error)
	version string

	mu    sync.Mutex
	shape *structural.Structural // nil until it is asked for
}

// is reports whether a field, such as spec.rules[0].when, has the value that the CRD gives it.
func (d *defaults) is(ctx context.Context, path string, value any) (bool, error) {
	shape, err := d.schema(ctx)
	if err != nil {
		return false, err
	}
	var field *structural.Structural
	for name := range pathParts(path) {
		switch {
		case shape == nil:
			return false, nil
		case shape.Items != nil:
			shape = shape.Items // the name is an index
			continue
		}
		f, ok := shape.Properties[name]
		if !ok {
			return false, nil
		}
		shape, field = &f, &f
	}
	if field == nil || field.Default.Object == nil {
		return false, nil
	}
	in := map[string]any{}
	defaulting.Default(in, &structural.Structural{Generic: structural.Generic{Type: "object"}, Properties: map[string]structural.Structural{"field": *field}})
	return sameJSON(in["field"], value), nil
}

// sameJSON compares values whose numbers may be of different Go types.
func sameJSON(a, b any) bool {
	x, err := json.Marshal(a)
	if err != nil {
		return false
	}
	y, err := json.Marshal(b)
	return err == nil && string(x) == string(y)
}

func (d *defaults) schema(ctx context.Context) (*structural.Structural, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shape != nil {
		return d.shape, nil
	}
	crd, err := d.crd(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range crd.Spec.Versions {
		if v.Name != d.version || v.Schema == nil {
			continue
		}
		var in apiext.JSONSchemaProps
		if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, &in, nil); err != nil {
			return nil, fmt.Errorf("schema of %s: %w", crd.Name, err)
		}
		if d.shape, err = structural.NewStructural(&in); err != nil {
			return nil, fmt.Errorf("schema of %s: %w", crd.Name, err)
		}
		return d.shape, nil
	}
	return nil, fmt.Errorf("CRD %s has no version %s", crd.Name, d.version)
}
