package main

import (
	"bytes"
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

// order is that in which kinds are written: what others need comes first. The rest follows in the order of files.
var order = []string{"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}

// document is one object of a manifest.
type document struct {
	file string
	rank int
	text string
}

// renderFiles gives what the chart's templates come to with these values, after the schema has been asked.
func renderFiles(chartDir, namespace string, values map[string]any, cluster *common.Capabilities) (map[string]string, error) {
	chart, err := loader.Load(chartDir)
	if err != nil {
		return nil, err
	}
	release := common.ReleaseOptions{Name: "weft", Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(chart, values, release, cluster)
	if err != nil {
		return nil, err
	}
	return engine.Render(chart, all)
}

// render gives the chart's objects with these values.
func render(chartDir, namespace string, values map[string]any) ([]byte, error) {
	files, err := renderFiles(chartDir, namespace, values, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	var docs []document
	for file, text := range files {
		if path.Ext(file) != ".yaml" {
			continue
		}
		more, err := split(file, text)
		if err != nil {
			return nil, err
		}
		docs = append(docs, more...)
	}
	slices.SortStableFunc(docs, func(a, b document) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.file, b.file))
	})
	var out bytes.Buffer
	for _, d := range docs {
		out.WriteString("---\n" + d.text + "\n")
	}
	return out.Bytes(), nil
}

// split takes a file's documents apart. Empty ones are left out.
func split(file, text string) ([]document, error) {
	var out []document
	for _, part := range strings.Split("\n"+text, "\n---\n") {
		part = strings.TrimSpace(part)
		var head struct {
			Kind string `json:"kind"`
		}
		if err := yaml.Unmarshal([]byte(part), &head); err != nil {
			return nil, fmt.Errorf("%s: %w:\n%s", file, err, part)
		}
		if head.Kind == "" {
			continue
		}
		rank := slices.Index(order, head.Kind)
		if rank < 0 {
			rank = len(order)
		}
		out = append(out, document{file: file, rank: rank, text: dropBlankLines(part)})
	}
	return out, nil
}

// dropBlankLines takes out what templates that give nothing leave.
func dropBlankLines(text string) string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.TrimSpace(line) != "" {
			lines = append(lines, strings.TrimRight(line, " "))
		}
	}
	return strings.Join(lines, "\n")
}
