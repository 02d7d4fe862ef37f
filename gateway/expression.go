package gateway

import (
	"encoding/binary"
	"math"
	"regexp/syntax"
	"slices"
)

// What an expression takes of Envoy's heap, in KiB. Measured with Envoy 1.40: a route with an expression takes 5 KiB, and an
// instruction 64 bytes. While Envoy matches, it keeps the states of an automaton, at most some 2.7 MiB of them for each
// expression; a few expressions, such as .*a.{20}, come to that with one long path.
const (
	kbOfExpression = 5
	kbOfAutomaton  = 2800
	// maxStates and maxSteps bound the search for an automaton's states. An expression with more may take kbOfAutomaton.
	maxStates = 4096
	maxSteps  = 20_000
)

// expressionKB estimates what an expression takes of Envoy's heap. An expression that is not valid takes nothing.
func expressionKB(expression string) int {
	if validRegex(expression) != "" {
		return 0
	}
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return 0
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return 0
	}
	automaton := kbOfAutomaton
	if bytes, ok := automatonBytes(prog); ok {
		automaton = min(bytes>>10, kbOfAutomaton)
	}
	return kbOfExpression + len(prog.Inst)*64>>10 + automaton
}

// automatonBytes estimates what the states of the automaton take that matches whole texts. ok is false if there are too many.
func automatonBytes(prog *syntax.Prog) (bytes int, ok bool) {
	runes, ok := representatives(prog)
	if !ok {
		return 0, false
	}
	// A state has a number for each class of bytes, and one for each of its instructions.
	perState := 64 + 8*min(len(runes), 256)
	if len(runes) > 0x80 {
		perState *= 4 // Envoy matches bytes: characters outside of ASCII take several states
	}
	s := stateSearch{prog: prog, seen: map[string]bool{}}
	queue := [][]uint32{s.closure([]uint32{uint32(prog.Start)})}
	s.seen[key(queue[0])] = true
	for len(queue) > 0 {
		state := queue[0]
		queue = queue[1:]
		for _, r := range runes {
			next := s.step(state, r)
			if s.steps > maxSteps || len(s.seen) > maxStates {
				return 0, false
			}
			if k := key(next); !s.seen[k] {
				s.seen[k] = true
				bytes += perState + 4*len(next)
				queue = append(queue, next)
			}
		}
	}
	return bytes, true
}

// representatives returns a rune of each class that no instruction tells apart. ok is false if there are too many.
func representatives(prog *syntax.Prog) (runes []rune, ok bool) {
	const most = 2048
	runes = []rune{0, '\n', '\n' + 1, math.MaxUint16}
	for i := range prog.Inst {
		in := &prog.Inst[i]
		if in.Op != syntax.InstRune && in.Op != syntax.InstRune1 {
			continue
		}
		for j, r := range in.Rune {
			runes = append(runes, r)
			if j%2 == 1 || len(in.Rune) == 1 {
				runes = append(runes, r+1)
			}
		}
		if syntax.Flags(in.Arg)&syntax.FoldCase != 0 && len(in.Rune) == 1 {
			runes = append(runes, in.Rune[0]^' ', in.Rune[0]^' '+1)
		}
		if len(runes) > 8*most {
			slices.Sort(runes)
			if runes = slices.Compact(runes); len(runes) > most {
				return nil, false
			}
		}
	}
	slices.Sort(runes)
	runes = slices.Compact(runes)
	return runes, len(runes) <= most
}

// stateSearch finds the states of an automaton: the sets of instructions at which a match may be.
type stateSearch struct {
	prog  *syntax.Prog
	seen  map[string]bool
	steps int
}

// step returns the state after a rune.
func (s *stateSearch) step(state []uint32, r rune) []uint32 {
	var next []uint32
	for _, pc := range state {
		s.steps++
		if in := &s.prog.Inst[pc]; isRune(in.Op) && in.MatchRune(r) {
			next = append(next, in.Out)
		}
	}
	return s.closure(next)
}

// closure adds what is reached without a rune. Assertions such as \b are taken to hold, so that there are rather too many
// states than too few.
func (s *stateSearch) closure(from []uint32) []uint32 {
	visited := map[uint32]bool{}
	var out []uint32
	for stack := from; len(stack) > 0; {
		pc := stack[len(stack)-1]
		if stack = stack[:len(stack)-1]; visited[pc] {
			continue
		}
		visited[pc] = true
		s.steps++
		switch in := &s.prog.Inst[pc]; in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			stack = append(stack, in.Out, in.Arg)
		case syntax.InstCapture, syntax.InstEmptyWidth, syntax.InstNop:
			stack = append(stack, in.Out)
		case syntax.InstFail:
		default:
			out = append(out, pc)
		}
	}
	slices.Sort(out)
	return out
}

func isRune(op syntax.InstOp) bool {
	return op == syntax.InstRune || op == syntax.InstRune1 || op == syntax.InstRuneAny || op == syntax.InstRuneAnyNotNL
}

func key(state []uint32) string {
	var b []byte
	for _, pc := range state {
		b = binary.BigEndian.AppendUint32(b, pc)
	}
	return string(b)
}
