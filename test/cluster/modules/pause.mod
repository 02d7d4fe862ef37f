module github.com/weft-mesh/weft/test/cluster/pause

go 1.26.0
