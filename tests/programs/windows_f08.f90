! One-sided communication from Fortran: windows as the language's bindings make them, their attributes as integers, an
! error handler and a delete function in Fortran, epochs open over pauses.
!   windows_f08 ROUNDS PAUSE_MS
module parts
   use mpi_f08
   implicit none
   integer :: deleted = 0, handled = 0
contains
   subroutine on_delete(win, key, value, extra, ierror)
      type(MPI_Win) :: win
      integer :: key, ierror
      integer(MPI_ADDRESS_KIND) :: value, extra
      if (value /= 41 .or. extra /= 42) call MPI_Abort(MPI_COMM_WORLD, 3)
      deleted = deleted + 1
      ierror = MPI_SUCCESS
   end subroutine

   subroutine on_error(win, code)
      type(MPI_Win) :: win
      integer :: code
      handled = handled + 1
   end subroutine

   subroutine check(holds, what)
      logical, intent(in) :: holds
      character(*), intent(in) :: what
      if (.not. holds) then
         write (0, *) 'failed: ', what
         call MPI_Abort(MPI_COMM_WORLD, 3)
      end if
   end subroutine

   subroutine pause_ms(milliseconds)
      use iso_c_binding
      integer, intent(in) :: milliseconds
      interface
         function usleep(t) bind(c)
            import c_int
            integer(c_int), value :: t
            integer(c_int) :: usleep
         end function
      end interface
      integer(c_int) :: rc
      if (milliseconds > 0) rc = usleep(int(milliseconds, c_int)*1000)
   end subroutine
end module

program windows
   use mpi_f08
   use parts
   use iso_c_binding
   use iso_fortran_env, only: int64
   implicit none
   integer :: rank, size, right, left, round, rounds, pause, key, length, unit
   integer(MPI_ADDRESS_KIND) :: bytes, value, disp
   integer(int64), pointer :: memory(:), shared(:), theirs(:)
   integer(int64) :: mark, got, one, old, total, everyone
   type(c_ptr) :: base
   type(MPI_Win) :: allocated, common_memory
   type(MPI_Errhandler) :: handler
   type(MPI_Group) :: group
   type(MPI_Request) :: request
   logical :: flag
   character(32) :: argument
   character(MPI_MAX_OBJECT_NAME) :: name

   call MPI_Init()
   call MPI_Comm_rank(MPI_COMM_WORLD, rank)
   call MPI_Comm_size(MPI_COMM_WORLD, size)
   call get_command_argument(1, argument)
   read (argument, *) rounds
   call get_command_argument(2, argument)
   read (argument, *) pause
   right = mod(rank + 1, size)
   left = mod(rank + size - 1, size)
   one = 1

   bytes = 8*32
   call MPI_Win_allocate(bytes, 8, MPI_INFO_NULL, MPI_COMM_WORLD, base, allocated)
   call c_f_pointer(base, memory, [32])
   call MPI_Win_allocate_shared(bytes, 8, MPI_INFO_NULL, MPI_COMM_WORLD, base, common_memory)
   call c_f_pointer(base, shared, [32])
   memory = 0
   shared = 0
   call MPI_Win_set_name(allocated, 'allocated')
   call MPI_Win_create_keyval(MPI_WIN_NULL_COPY_FN, on_delete, key, 42_MPI_ADDRESS_KIND)
   call MPI_Win_set_attr(allocated, key, 41_MPI_ADDRESS_KIND)
   call MPI_Win_create_errhandler(on_error, handler)
   call MPI_Win_set_errhandler(allocated, handler)
   call MPI_Errhandler_free(handler)
   call MPI_Win_lock_all(0, common_memory)
   call MPI_Barrier(MPI_COMM_WORLD)

   total = 0
   do round = 1, rounds
      mark = int(round, int64)*1000 + rank
      call MPI_Win_fence(0, allocated)
      disp = 1
      call MPI_Put(mark, 1, MPI_INTEGER8, right, disp, 1, MPI_INTEGER8, allocated)
      call pause_ms(pause)
      call MPI_Win_fence(0, allocated)
      call check(memory(2) == int(round, int64)*1000 + left, 'put')
      disp = 2
      call MPI_Fetch_and_op(one, old, MPI_INTEGER8, right, disp, MPI_SUM, common_memory)
      disp = 3
      call MPI_Rput(mark, 1, MPI_INTEGER8, right, disp, 1, MPI_INTEGER8, common_memory, request)
      call pause_ms(pause)
      call MPI_Wait(request, MPI_STATUS_IGNORE)
      call MPI_Win_flush(right, common_memory)
      call check(old == round - 1, 'fetch_and_op')
      call MPI_Barrier(MPI_COMM_WORLD)
      call MPI_Win_shared_query(common_memory, right, bytes, unit, base)
      call c_f_pointer(base, theirs, [32])
      call check(bytes == 256 .and. unit == 8 .and. theirs(4) == mark .and. theirs(3) == round, 'shared memory')
      total = total + memory(2) + shared(4)
      call MPI_Barrier(MPI_COMM_WORLD)
   end do

   call MPI_Win_get_attr(allocated, MPI_WIN_SIZE, value, flag)
   call check(flag .and. value == 256, 'MPI_WIN_SIZE')
   call MPI_Win_get_attr(allocated, MPI_WIN_DISP_UNIT, value, flag)
   call check(flag .and. value == 8, 'MPI_WIN_DISP_UNIT')
   call MPI_Win_get_attr(allocated, MPI_WIN_BASE, value, flag)
   call check(flag .and. value == transfer(c_loc(memory), value), 'MPI_WIN_BASE')
   call MPI_Win_get_attr(common_memory, MPI_WIN_CREATE_FLAVOR, value, flag)
   call check(flag .and. value == MPI_WIN_FLAVOR_SHARED, 'MPI_WIN_CREATE_FLAVOR')
   call MPI_Win_get_attr(allocated, key, value, flag)
   call check(flag .and. value == 41, 'an attribute of the program')
   call MPI_Win_get_name(allocated, name, length)
   call check(length == len('allocated'), 'the name') ! Open MPI 4.1.4 gives its text back damaged
   call MPI_Win_get_group(allocated, group)
   call MPI_Group_size(group, unit)
   call MPI_Group_free(group)
   call check(unit == size, 'the group')
   call MPI_Win_call_errhandler(allocated, MPI_ERR_OTHER)
   call check(handled == 1, 'the error handler')

   call MPI_Win_unlock_all(common_memory)
   call MPI_Win_free(common_memory)
   call MPI_Win_free(allocated)
   call check(deleted == 1, 'the delete function')
   call MPI_Win_free_keyval(key)
   got = total
   call MPI_Reduce(got, everyone, 1, MPI_INTEGER8, MPI_SUM, 0, MPI_COMM_WORLD)
   if (rank == 0) print '(a,z16.16)', 'RESULT ', everyone
   call MPI_Finalize()
end program
