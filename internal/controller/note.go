package controller

import (
	"slices"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// note holds conditions of an object that do not follow from objects, but from what became of a write.
type note struct {
	object     model.ObjectRef
	conditions []model.Condition
}

func newNotes(db *state.DB) *state.Table[*note] {
	return state.NewTable(db, "controller-notes", func(n *note) string { return n.object.String() })
}

// addTo returns a status with the note's conditions; nothing is added to what the mesh has nothing to say of.
func (n *note) addTo(s *model.Status) *model.Status {
	if s == nil {
		return nil
	}
	out := *s
	out.Conditions = slices.Concat(s.Conditions, n.conditions)
	return &out
}
