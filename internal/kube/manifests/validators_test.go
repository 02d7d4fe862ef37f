package manifests

import (
	"maps"
	"slices"
	"sync"
	"testing"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"pgregory.net/rapid"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TestKeptValidatorsFindWhatNewOnesFind checks random routes with errors in them, several at once by the same validators,
// and each also by validators that are made for it alone.
func TestKeptValidatorsFindWhatNewOnesFind(t *testing.T) {
	gk := schema.GroupKind{Group: gwv1.GroupName, Kind: "HTTPRoute"}
	var all schemas
	all.once.Do(all.load)
	var props apiext.JSONSchemaProps
	if err := apiextv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(all.kinds[gk].file.Schema, &props, nil); err != nil {
		t.Fatal(err)
	}
	anew, _, err := validation.NewSchemaValidator(&props)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := all.get(gk)
	if err != nil {
		t.Fatal(err)
	}
	wrong := 0
	rapid.Check(t, func(t *rapid.T) {
		routes := make([]map[string]any, 4)
		got := make([]field.ErrorList, len(routes))
		for i := range routes {
			routes[i] = randomRoute(t)
			for range rapid.IntRange(0, 3).Draw(t, "errors") {
				spoil(t, routes[i])
			}
		}
		var wg sync.WaitGroup
		for i, r := range routes {
			wg.Go(func() { got[i] = validation.ValidateCustomResource(nil, r, kept.valid) })
		}
		wg.Wait()
		for i, r := range routes {
			want := errorTexts(validation.ValidateCustomResource(nil, r, anew))
			if wrong += len(want); !slices.Equal(errorTexts(got[i]), want) {
				t.Fatalf("%v: kept validators find\n%q\nnew ones find\n%q", r, errorTexts(got[i]), want)
			}
		}
	})
	if wrong == 0 {
		t.Error("no route had an error")
	}
}

// spoil replaces a random value below m by one that is likely to be wrong.
func spoil(t *rapid.T, m map[string]any) {
	key := rapid.SampledFrom(slices.Sorted(maps.Keys(m))).Draw(t, "key")
	for {
		next, ok := m[key].(map[string]any)
		if list, is := m[key].([]any); is && len(list) > 0 {
			next, ok = rapid.SampledFrom(list).Draw(t, "element").(map[string]any)
		}
		if !ok || len(next) == 0 || rapid.IntRange(0, 5).Draw(t, "stop") == 0 {
			break
		}
		m, key = next, rapid.SampledFrom(slices.Sorted(maps.Keys(next))).Draw(t, "key")
	}
	m[key] = rapid.SampledFrom([]any{nil, "", "No Name!", int64(-1), int64(1 << 20), true, []any{}, []any{map[string]any{}}, map[string]any{"a": "b"}}).Draw(t, "wrong")
}

func errorTexts(errs field.ErrorList) []string {
	out := []string{}
	for _, e := range errs {
		out = append(out, e.Error())
	}
	slices.Sort(out)
	return out
}
