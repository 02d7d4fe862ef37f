package kube

import (
	"fmt"

	"github.com/weft-mesh/weft/internal/model"
)

// Problem is an object, or a part of the source, that could not be read.
type Problem struct {
	File string // below the folder; "kubernetes" for an object of an API server
	Line int    // from 1; 0 is the whole file
	// Object is empty if the text does not say which object it is.
	Object model.ObjectRef
	Reason string
}

// String returns file:line: object: reason.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s += fmt.Sprintf(":%d", p.Line)
	}
	if p.Object.Kind != "" {
		s += ": " + p.Object.String()
	}
	return s + ": " + p.Reason
}
