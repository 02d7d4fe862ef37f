package gateway

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/weft-mesh/weft/internal/model"
)

// TestConditionTypesAreListed: a type that is not in the list would never be removed from an object again. All statuses
// that the golden files hold are looked at, and the code, for conditions that no golden file has.
func TestConditionTypesAreListed(t *testing.T) {
	files, err := filepath.Glob("testdata/*.status.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	written := map[string]bool{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var statuses []model.Status
		if err := yaml.Unmarshal(data, &statuses); err != nil {
			t.Fatal(err)
		}
		for _, s := range statuses {
			lists := [][]model.Condition{s.Conditions}
			for _, p := range s.Parents {
				lists = append(lists, p.Conditions)
			}
			for _, l := range s.Listeners {
				lists = append(lists, l.Conditions)
			}
			for _, c := range slices.Concat(lists...) {
				written[c.Type] = true
			}
		}
	}
	for c := range written {
		if !slices.Contains(model.ConditionTypes, c) {
			t.Errorf("type %q is in a golden file and not in model.ConditionTypes", c)
		}
	}
	for _, c := range model.ConditionTypes {
		if !written[c] && c != model.ConditionServiceReady { // the controller's
			t.Errorf("type %q is in model.ConditionTypes and in no golden file", c)
		}
	}
}

// TestConditionTypesAreConstants: each condition is made with one of the constants, and each constant is in the list.
func TestConditionTypesAreConstants(t *testing.T) {
	constants := map[string]bool{}
	inspect(t, "../internal/model", func(n ast.Node) {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 && strings.HasPrefix(v.Names[0].Name, "Condition") {
			if lit, ok := v.Values[0].(*ast.BasicLit); ok {
				constants["model."+v.Names[0].Name] = true
				if !slices.Contains(model.ConditionTypes, strings.Trim(lit.Value, `"`)) {
					t.Errorf("model.%s is not in model.ConditionTypes", v.Names[0].Name)
				}
			}
		}
	})
	if len(constants) != len(model.ConditionTypes) {
		t.Errorf("%d constants, %d types", len(constants), len(model.ConditionTypes))
	}
	made := 0
	for _, dir := range []string{".", "../internal/controller"} {
		inspect(t, dir, func(n ast.Node) {
			kind := conditionType(n)
			if kind == "" || kind == "kind" { // yes, no and condition pass on what they are given
				return
			}
			made++
			if !constants[kind] {
				t.Errorf("%s: a condition is made with type %s, which is not a constant of package model", dir, kind)
			}
		})
	}
	if made < 10 {
		t.Errorf("only %d places were found that make conditions", made)
	}
}

// conditionType returns the expression of a condition's type if n makes a condition; "" if it does not.
func conditionType(n ast.Node) string {
	switch n := n.(type) {
	case *ast.CallExpr:
		name := ""
		switch f := n.Fun.(type) {
		case *ast.Ident:
			name = f.Name
		case *ast.SelectorExpr:
			name = f.Sel.Name
		}
		if (name == "yes" || name == "no" || name == "condition") && len(n.Args) >= 2 {
			return source(n.Args[0])
		}
	case *ast.CompositeLit:
		for _, e := range n.Elts {
			kv, ok := e.(*ast.KeyValueExpr)
			if ok && source(kv.Key) == "Type" && hasKey(n, "Reason") && (n.Type == nil || source(n.Type) == "model.Condition") {
				return source(kv.Value)
			}
		}
	}
	return ""
}

func hasKey(n *ast.CompositeLit, name string) bool {
	return slices.ContainsFunc(n.Elts, func(e ast.Expr) bool {
		kv, ok := e.(*ast.KeyValueExpr)
		return ok && source(kv.Key) == name
	})
}

func source(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return source(e.X) + "." + e.Sel.Name
	case *ast.BasicLit:
		return e.Value
	}
	return "?"
}

// inspect visits the code of a package without its tests.
func inspect(t *testing.T, dir string, visit func(ast.Node)) {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			visit(n)
			return true
		})
	}
}
