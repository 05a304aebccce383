-- mana for Lmod. It finds the installation it lies in: link it to a directory of MODULEPATH (as mana/VERSION.lua), or
-- name its own directory with "module use PREFIX/share/mana/templates/modules".
local place = "/share/mana/templates/modules/.*$"
local file = myFileName()
if not file:find(place) then
    file = capture("readlink -f '" .. file .. "'"):gsub("%s+$", "")
end
local root = file:gsub(place, "")
whatis("transparent multi-level checkpointing for MPI programs")
prepend_path("PATH", pathJoin(root, "bin"))
prepend_path("MANPATH", pathJoin(root, "share/man"))
setenv("MANA_ROOT", root)
