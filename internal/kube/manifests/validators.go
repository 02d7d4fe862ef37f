package manifests

import (
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
)

// anyElement is the name of the child for elements of a list and for values of a map with keys of any name. No field of a
// schema has an empty name.
const anyElement = ""

// validators makes the validators of one schema and keeps them. By itself kube-openapi makes a validator anew for each
// field of each object, because a validator holds the path of its field, and that is most of the cost of a check. Here
// each validator is used by one check at a time, which sets its path first. Safe for concurrent use.
type validators struct {
	schema *spec.Schema
	idle   sync.Pool // of *validate.SchemaValidator

	mu       sync.Mutex
	children map[string]*validators // by the name of the field, or anyElement
}

// Validate checks a value against the schema, as validation.ValidateCustomResource asks for.
func (v *validators) Validate(value any, _ ...validation.ValidationOption) *validate.Result {
	return v.take("", v.schema, strfmt.Default).Validate(value)
}

// take returns a validator for the value at a path. It must be used once.
func (v *validators) take(path string, root any, formats strfmt.Registry) validate.ValueValidator {
	s, ok := v.idle.Get().(*validate.SchemaValidator)
	if !ok {
		s = validate.NewSchemaValidator(v.schema, root, path, formats, v.option)
	} else {
		s.SetPath(path)
	}
	return borrowed{s, v}
}

func (v *validators) option(o *validate.SchemaValidatorOptions) {
	o.NewValidatorForField, o.NewValidatorForIndex = v.field, v.index
}

func (v *validators) field(name string, schema *spec.Schema, root any, path string, formats strfmt.Registry, _ ...validate.Option) validate.ValueValidator {
	if _, ok := v.schema.Properties[name]; !ok {
		name = anyElement
	}
	return v.child(name, schema, root, path, formats)
}

func (v *validators) index(_ int, schema *spec.Schema, root any, path string, formats strfmt.Registry, _ ...validate.Option) validate.ValueValidator {
	return v.child(anyElement, schema, root, path, formats)
}

func (v *validators) child(name string, schema *spec.Schema, root any, path string, formats strfmt.Registry) validate.ValueValidator {
	if s := v.schema; len(s.AllOf)+len(s.AnyOf)+len(s.OneOf) > 0 || s.Not != nil {
		// Each of these schemas can have another one for the same field.
		return validate.NewSchemaValidator(schema, root, path, formats)
	}
	v.mu.Lock()
	c := v.children[name]
	if c == nil {
		own := *schema // the caller uses the variable again
		c = &validators{schema: &own}
		put(&v.children, name, c)
	}
	v.mu.Unlock()
	return c.take(path, root, formats)
}

// borrowed is a validator that goes back after it was used.
type borrowed struct {
	*validate.SchemaValidator
	from *validators
}

func (b borrowed) Validate(value any) *validate.Result {
	defer b.from.idle.Put(b.SchemaValidator)
	return b.SchemaValidator.Validate(value)
}
