package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weft-mesh/weft/internal/servicemap"
)

// The service that controllers serve to readers, beside that for flows. Requests are one message and answers are streams; messages
// hold JSON.
const (
	MeshService = "weft.api.v1.Mesh"
	// MeshAsk takes a Question and answers with a MeshPart for each value that is another than those before, and then with one
	// that has End.
	MeshAsk = "/" + MeshService + "/Ask"
	// MeshExplain takes an ExplainQuestion and answers with an explain.Answer.
	MeshExplain = "/" + MeshService + "/Explain"
	// MeshDescribe takes a DescribeQuestion and answers with a Described.
	MeshDescribe = "/" + MeshService + "/Describe"
	// MeshEdges takes {} and answers with a servicemap.Graph.
	MeshEdges = "/" + MeshService + "/Edges"

	// maxNodeAnswers bounds what a reader takes of the answers to a question, in bytes.
	maxNodeAnswers = 256 << 20
)

// MeshPart is a part of the answer to a Question.
type MeshPart struct {
	// ID counts the values from 0.
	ID int `json:"id"`
	Answer
	End *MeshEnd `json:"end,omitempty"` // of the last part, which has no value
}

// MeshEnd says which node gave which value.
type MeshEnd struct {
	// Scope is what the reader may see.
	Scope Scope      `json:"scope"`
	Nodes []MeshNode `json:"nodes"` // by name
}

// MeshNode is a node's answer.
type MeshNode struct {
	Name  string `json:"name"`
	ID    int    `json:"id"`              // of the value
	Error string `json:"error,omitempty"` // why there is none
}

// MeshAnswer is the answer to a Question.
type MeshAnswer struct {
	MeshEnd
	Values []Answer // by their ID
}

// AskMesh asks controllers. Metadata of ctx has the token.
func AskMesh(ctx context.Context, conn grpc.ClientConnInterface, q Question) (*MeshAnswer, error) {
	out := &MeshAnswer{}
	size, ended := 0, false
	err := stream(ctx, conn, MeshAsk, q, func(text []byte) error {
		var p MeshPart
		if err := json.Unmarshal(text, &p); err != nil {
			return fmt.Errorf("the answer cannot be read: %w", err)
		}
		if p.End != nil {
			out.MeshEnd, ended = *p.End, true
			return nil
		}
		if size += len(p.Value); size > maxNodeAnswers || p.ID != len(out.Values) {
			return errors.New("the answer is too long, or out of order: name a node, a namespace or an object")
		}
		out.Values = append(out.Values, p.Answer)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, n := range out.Nodes {
		if n.Error == "" && (n.ID < 0 || n.ID >= len(out.Values)) {
			ended = false
		}
	}
	if !ended {
		return nil, errors.New("the answer has no end")
	}
	return out, nil
}

// AskEdges asks controllers for the service map. Metadata of ctx has the token.
func AskEdges(ctx context.Context, conn grpc.ClientConnInterface) (*servicemap.Graph, error) {
	g := &servicemap.Graph{}
	return g, stream(ctx, conn, MeshEdges, struct{}{}, func(text []byte) error { return json.Unmarshal(text, g) })
}

// stream sends a request and calls each for every message of the answer.
func stream(ctx context.Context, conn grpc.ClientConnInterface, method string, request any, each func([]byte) error) error {
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := errors.Join(s.SendMsg(wrapperspb.Bytes(text)), s.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for {
		var m wrapperspb.BytesValue
		switch err := s.RecvMsg(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := each(m.GetValue()); err != nil {
			return err
		}
	}
}
