package hubble

import (
	"fmt"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// maxMask bounds the paths of a field mask.
const maxMask = 128

// mask is a tree of the fields that are kept; nil keeps all of a message.
type mask map[protoreflect.Name]mask

// newMask reads a field mask (google.protobuf.FieldMask); nil for none.
func newMask(in *fieldmaskpb.FieldMask) (mask, error) {
	paths := in.GetPaths()
	if len(paths) == 0 {
		return nil, nil
	}
	if len(paths) > maxMask {
		return nil, fmt.Errorf("%d paths; there may be %d", len(paths), maxMask)
	}
	if _, err := fieldmaskpb.New(&flowpb.Flow{}, paths...); err != nil {
		return nil, err
	}
	out := mask{}
	for _, p := range paths {
		at := out
		parts := strings.Split(p, ".")
		for i, part := range parts {
			name := protoreflect.Name(part)
			below, known := at[name]
			switch {
			case known && below == nil: // all of it is kept
			case i == len(parts)-1:
				at[name] = nil
			case !known:
				below = mask{}
				at[name] = below
			}
			if at = below; at == nil {
				break
			}
		}
	}
	return out, nil
}

// apply returns what the mask keeps of a flow, which it may change.
func (m mask) apply(f *flowpb.Flow) *flowpb.Flow {
	if m != nil {
		m.prune(f.ProtoReflect())
	}
	return f
}

func (m mask) prune(message protoreflect.Message) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		below, keep := m[field.Name()]
		switch {
		case !keep:
			message.Clear(field)
		case below != nil && field.Message() != nil && !field.IsList() && !field.IsMap():
			below.prune(value.Message())
		}
		return true
	})
}
