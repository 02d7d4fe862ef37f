package manifests

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"github.com/weft-mesh/weft/internal/kube/crds"
)

// schemas holds the Gateway API's schemas. Each is compiled when the first object of its kind is met, and its rules in
// CEL when the first object is met that keepsRules cannot vouch for (some 60 ms and 8 MB for HTTPRoute).
type schemas struct {
	once  sync.Once
	kinds map[schema.GroupKind]*kindSchema
	err   error
}

type crdFile struct {
	Group    string                    `json:"group"`
	Kind     string                    `json:"kind"`
	Versions []string                  `json:"versions"`
	Schema   *apiextv1.JSONSchemaProps `json:"schema"`
}

// kindSchema is an API server's view of a kind.
type kindSchema struct {
	file  crdFile
	once  sync.Once
	err   error
	shape *structural.Structural
	valid *validators

	rulesOnce sync.Once
	rules     *cel.Validator
}

func (s *schemas) load() {
	s.kinds = map[schema.GroupKind]*kindSchema{}
	files, err := fs.Glob(crds.Files, "*.json")
	if err != nil {
		s.err = err
		return
	}
	for _, name := range files {
		data, err := crds.Files.ReadFile(name)
		if err != nil {
			s.err = err
			return
		}
		k := &kindSchema{}
		if err := json.Unmarshal(data, &k.file); err != nil {
			s.err = fmt.Errorf("schema %s: %w", name, err)
			return
		}
		s.kinds[schema.GroupKind{Group: k.file.Group, Kind: k.file.Kind}] = k
	}
}

// serves reports whether an API server would take a kind in a version.
func (s *schemas) serves(gk schema.GroupKind, version string) bool {
	s.once.Do(s.load)
	k := s.kinds[gk]
	return k != nil && slices.Contains(k.file.Versions, version)
}

// get returns the schema of a kind, nil for kinds that have none.
func (s *schemas) get(gk schema.GroupKind) (*kindSchema, error) {
	s.once.Do(s.load)
	k := s.kinds[gk]
	if k == nil {
		return nil, s.err
	}
	k.once.Do(func() { k.err = k.compile() })
	return k, k.err
}

func (k *kindSchema) compile() error {
	var in apiext.JSONSchemaProps
	if err := apiextv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(k.file.Schema, &in, nil); err != nil {
		return fmt.Errorf("schema of %s: %w", k.file.Kind, err)
	}
	var err error
	if k.shape, err = structural.NewStructural(&in); err != nil {
		return fmt.Errorf("schema of %s: %w", k.file.Kind, err)
	}
	_, openAPI, err := validation.NewSchemaValidator(&in)
	if err != nil {
		return fmt.Errorf("schema of %s: %w", k.file.Kind, err)
	}
	k.valid = &validators{schema: openAPI}
	k.file.Schema = nil
	return nil
}

// completeAndValidate writes defaults into an object and says what is wrong with it: types, enums, lengths, patterns,
// list keys.
func (k *kindSchema) completeAndValidate(m map[string]any) field.ErrorList {
	defaulting.PruneNonNullableNullsWithoutDefaults(m, k.shape)
	defaulting.Default(m, k.shape)
	errs := append(validation.ValidateCustomResource(nil, m, k.valid), listtype.ValidateListSetsAndMaps(nil, k.shape, m)...)
	// oneOf and anyOf say that no alternative fits, without a field; what is wrong with the alternatives says more.
	if located := slices.DeleteFunc(slices.Clone(errs), func(e *field.Error) bool { return e.Field == "<nil>" }); len(located) > 0 {
		return located
	}
	return errs
}

// checkRules runs the schema's rules in CEL over an object that completeAndValidate found to be right.
func (k *kindSchema) checkRules(m map[string]any) field.ErrorList {
	k.rulesOnce.Do(func() { k.rules = cel.NewValidator(k.shape, true, celconfig.PerCallLimit) })
	errs, _ := k.rules.Validate(context.Background(), nil, k.shape, m, nil, celconfig.RuntimeCELCostBudget)
	return errs
}
